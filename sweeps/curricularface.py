"""How fast should CurricularFace turn from easy to hard negatives, and with which margin?

`loss.cosine_momentum` is the share of each new batch in the mean cosine that sets the pace: 0.01
in the paper, for a hundred thousand steps. A training of a few hundred steps may never get past
the easy ones with it.

python sweeps/curricularface.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "curricularface"), space("curricularface")
SWEEP = Sweep(name="curricularface", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=16)

if __name__ == "__main__":
    main(SWEEP)
