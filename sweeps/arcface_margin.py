"""How much angular margin does ArcFace want, and at which scale?

The margin is in radians; large ones start slowly and may be stopped too early.

python sweeps/arcface_margin.py data.train=shards/faces
"""

from facerec.config import Component
from facerec.domains import LogUniform, Uniform
from facerec.presets import laptop
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

SWEEP = Sweep(
    name="arcface_margin",
    base=laptop(Component("arcface")),
    space={"loss.margin": Uniform(0.0, 0.7), "loss.scale": LogUniform(10, 100)},
    points=(
        {"loss.margin": 0.5, "loss.scale": 64.0},  # the paper's
        {"loss.margin": 0.2, "loss.scale": 24.0},  # a start for few identities
    ),
    trials=8,
)

if __name__ == "__main__":
    main(SWEEP)
