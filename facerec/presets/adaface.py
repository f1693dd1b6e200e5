"""AdaFace: mk-minchul/AdaFace."""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig
from facerec.data.augment import Augment


def adaface_ms1mv2_r50() -> TrainConfig:
    """Give AdaFace's training with the smaller net.

    Mixed precision, no clipping, no weight decay on batch normalisation; random crops, low
    resolution and changes of light with a probability of 0.2 each. `iresnet50` stands for its
    IR-50, whose first shortcut is a pooling layer.

    Data: MS1MV2, 85,742 identities, 5.8 million images.

    Source: mk-minchul/AdaFace@c60eaa78: scripts/run_ir50_ms1mv2.sh (batch 512, lr 0.1 / 10 at
    epochs 12, 20 and 24 of 26, m 0.4, h 0.333, augmentation 0.2 each), train_val.py (weight decay
    5e-4, none on batch normalisation), config.py (t_alpha 0.01), net.py (dropout 0.4).
    """
    return _adaface("iresnet50")


def adaface_ms1mv2_r100() -> TrainConfig:
    """Give AdaFace's training: LFW 99.82, AgeDB 98.05, CFP-FP 98.49, CALFW 96.08, CPLFW 93.53.

    As `adaface_ms1mv2_r50`, with `iresnet100` for its IR-101.

    Data: MS1MV2, 85,742 identities, 5.8 million images.

    Source: mk-minchul/AdaFace@c60eaa78: scripts/run_ir101_ms1mv2.sh (batch 512, lr 0.1 / 10 at
    epochs 12, 20 and 24 of 26), train_val.py, config.py, net.py.
    """
    return _adaface("iresnet100")


def _adaface(backbone: str) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=512, augment=Augment(crop=0.2, low_res=0.2, photometric=0.2)),
        backbone=Component(backbone, {"dropout": 0.4}),
        loss=Component(
            "adaface",
            {"margin": 0.4, "concentration": 0.333, "scale": 64.0, "norm_momentum": 0.01},
        ),
        optimizer=OptimizerConfig(
            no_decay="norm", schedule="step", milestones="12/26,20/26,24/26", clip_norm=0.0
        ),
        epochs=26,
    )
