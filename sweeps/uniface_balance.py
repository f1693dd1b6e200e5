"""Should UniFace's negatives count less, or should fewer of them be met?

In the paper's scans a weight of 0.5 and a sample rate of 0.5 gain about as much, each alone; what
both do together is open. Margin and scale are those that suit few identities; for many, give
loss.margin=0.4 loss.scale=64.

python sweeps/uniface_balance.py data.train=shards/faces
"""

from facerec.config import Component
from facerec.domains import Choice
from facerec.losses import LOSSES
from facerec.presets import laptop
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

WEIGHT, RATE = "loss.negative_weight", "head.sample_rate"
SWEEP = Sweep(
    name="uniface_balance",
    base=laptop(Component("uniface", {"margin": 0.2, "scale": 24.0})),
    space={
        WEIGHT: LOSSES["uniface"].space[WEIGHT],
        RATE: Choice((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)),
    },
    points=({WEIGHT: 1.0, RATE: 1.0}, {WEIGHT: 0.5, RATE: 1.0}, {WEIGHT: 1.0, RATE: 0.5}),
    trials=16,
)

if __name__ == "__main__":
    main(SWEEP)
