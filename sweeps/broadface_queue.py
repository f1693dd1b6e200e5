"""How many past embeddings should BroadFace's queue hold, and should they move with their centers?

The paper keeps 32,000 of MS1M's millions, compensated for what their centers did since. On a small
set that is several epochs, of embeddings which the network has long left behind.

python sweeps/broadface_queue.py data.train=shards/faces
"""

from facerec.config import Component
from facerec.domains import Choice, IntUniform, Uniform
from facerec.presets import laptop
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

SIZE, COMPENSATE, START = "head.queue_size", "head.queue_compensate", "head.queue_start"
SWEEP = Sweep(
    name="broadface_queue",
    base=laptop(Component("broadface", {"margin": 0.2, "scale": 24.0})),  # for few identities
    space={
        SIZE: IntUniform(500, 64_000, log=True),
        COMPENSATE: Choice((True, False)),
        START: Uniform(0.0, 0.5),
    },
    points=({SIZE: 32_000, COMPENSATE: True, START: 0.0},),  # the paper's
    trials=16,
)

if __name__ == "__main__":
    main(SWEEP)
