"""`python -m facerec` is `facerec`; so `torchrun -m facerec train ...` starts several workers."""

import sys

from facerec.cli import main

if __name__ == "__main__":
    sys.exit(main())
