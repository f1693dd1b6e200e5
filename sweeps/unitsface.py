"""How much margin between samples does UniTSFace want beside its sample-to-class loss?

In the paper's scan accuracy rises to a pair margin of about 0.2 and is flat from there, but its
later trainings take 0.1.

python sweeps/unitsface.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "unitsface"), space("unitsface")
SWEEP = Sweep(name="unitsface", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=16)

if __name__ == "__main__":
    main(SWEEP)
