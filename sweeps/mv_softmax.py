"""How much should MV-Softmax stress what is confused, with an additive or an angular margin?

`loss.hard_weight` raises the others that come closer than the target; at 0 it is CosFace or ArcFace
with the easy rule. The paper tries 0.1 to 0.4 at scale 32.

python sweeps/mv_softmax.py data.train=shards/faces
"""

from facerec.domains import Choice
from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE = recipe(laptop(), "mv_softmax")
SPACE = {"loss.variant": Choice(("am", "arc")), **space("mv_softmax")}
SWEEP = Sweep(name="mv_softmax", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=20)

if __name__ == "__main__":
    main(SWEEP)
