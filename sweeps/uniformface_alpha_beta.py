"""Does UniformFace's push between centers help, and does moving centers to their images?

Alpha weighs the push (1 in the paper), beta moves centers by hand. In the one public reproduction
neither gained: with 0.001 the moves were stable, with 0.01 and more the training broke down.

python sweeps/uniformface_alpha_beta.py data.train=shards/faces
"""

from facerec.domains import Choice
from facerec.losses import LOSSES
from facerec.presets import laptop
from facerec.tuning.compare import points, recipe
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE = recipe(laptop(), "uniformface")
SPACE = {
    "loss.alpha": LOSSES["uniformface"].space["loss.alpha"],
    "loss.beta": Choice((0.0, 1e-5, 1e-4, 1e-3, 3e-3)),
    "loss.in_batch": Choice((True, False)),
}
SWEEP = Sweep(
    name="uniformface_alpha_beta", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=16
)

if __name__ == "__main__":
    main(SWEEP)
