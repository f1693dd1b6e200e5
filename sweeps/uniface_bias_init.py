"""Where should UniFace's bias start? Every arm once, then those that look best.

How far an arm is off depends on the scale (the formula of `analytic` has it squared), so the
scale is searched along.

python sweeps/uniface_bias_init.py data.train=shards/faces
"""

from facerec.config import Component
from facerec.domains import LogUniform
from facerec.losses.uniface import UnifiedCrossEntropy
from facerec.presets import laptop
from facerec.tuning.runner import main
from facerec.tuning.sweep import Sweep

SWEEP = Sweep(
    name="uniface_bias_init",
    base=laptop(Component("uniface")),
    space={
        "loss.bias_init": UnifiedCrossEntropy.space["bias_init"],
        "loss.scale": LogUniform(10, 100),
    },
    points=({"loss.bias_init": "log_10rc", "loss.scale": 64.0},),
    trials=16,
)

if __name__ == "__main__":
    main(SWEEP)
