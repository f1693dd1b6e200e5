"""Between which margins, over which range of norms, does MagFace work best?

Its bounds are for the norms that one network has (10 to 110 with ResNets on MS1M; the authors
advise 1 to 51 where norms are small), so they are searched together. The weight of the norm's
penalty is searched as a multiple of the smallest that the paper's proof allows.

python sweeps/magface_bounds.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "magface"), space("magface")
SWEEP = Sweep(name="magface_bounds", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=20)

if __name__ == "__main__":
    main(SWEEP)
