"""Which mixture of the three margins: cos(m1 angle + m2) - m3?

The first settings are the named ones: ArcFace, CosFace and the two mixtures of ArcFace's paper,
which lie within each other's noise there. `loss.filter` leaves out others that look like the
target: for labels with errors.

python sweeps/combined.py data.train=shards/faces
"""

from facerec.presets import laptop
from facerec.tuning.compare import points, recipe, space
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

BASE, SPACE = recipe(laptop(), "combined"), space("combined")
FIRST = points(BASE, SPACE)[-1]  # at the lowest scale
NAMED = ((1.0, 0.5, 0.0), (1.0, 0.0, 0.35), (1.0, 0.3, 0.2), (0.9, 0.4, 0.15))
SWEEP = Sweep(
    name="combined",
    base=BASE,
    space=SPACE,
    points=tuple({**FIRST, "loss.m1": a, "loss.m2": b, "loss.m3": c} for a, b, c in NAMED),
    trials=20,
)

if __name__ == "__main__":
    main(SWEEP)
