"""Which pairs of scale and margin go together, and how low may the scale be?

CosFace has a least scale for a number of identities: below it softmax cannot be sure even of what
is placed perfectly. The plot draws it as a line; the range goes beyond it on purpose.

python sweeps/scale_and_margin.py data.train=shards/faces
"""

from facerec.domains import LogUniform, Uniform
from facerec.presets import laptop
from facerec.tuning.compare import points, recipe
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE = recipe(laptop(), "cosface")
SPACE = {"loss.scale": LogUniform(4, 128), "loss.margin": Uniform(0.0, 0.5)}
SWEEP = Sweep(
    name="scale_and_margin",
    base=BASE,
    space=SPACE,
    points=points(BASE, SPACE)[:1],
    trials=24,
    early_stop=False,  # a map of the whole range, not only of its best corner
)

if __name__ == "__main__":
    main(SWEEP)
