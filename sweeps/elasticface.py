"""Does a margin drawn anew for each image help, how wide, and is the `+` assignment better?

Published: sigma 0.05, and 0.0175 or 0.02 with `+`. Those `+` models were trained with an assignment
that differs from the paper's (`loss.plus_assignment`), so which of the two is good is open.

python sweeps/elasticface.py data.train=shards/faces
"""

from facerec.domains import Choice
from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE = recipe(laptop(), "elasticface")
SPACE = {"loss.variant": Choice(("arc", "cos")), **space("elasticface")}
SWEEP = Sweep(name="elasticface", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=20)

if __name__ == "__main__":
    main(SWEEP)
