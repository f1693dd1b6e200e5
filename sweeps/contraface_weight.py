"""How much should two views of an image attract each other, how unlike should they be, from when?

The views differ by dropout alone. Published: a weight of 0.05, a dropout of 0.6, and the contrast
from a third of the training on.

python sweeps/contraface_weight.py data.train=shards/faces
"""

from facerec.domains import Uniform
from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE = recipe(laptop(), "contraface")
SPACE = {
    "loss.contrast_weight": space("contraface")["loss.contrast_weight"],
    "backbone.view_dropout": space("contraface")["backbone.view_dropout"],
    "loss.regularizer_start": Uniform(0.0, 0.5),
}
SWEEP = Sweep(
    name="contraface_weight", base=BASE, space=SPACE, points=points(BASE, SPACE), trials=16
)

if __name__ == "__main__":
    main(SWEEP)
