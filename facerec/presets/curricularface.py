"""CurricularFace: HuangYG123/CurricularFace."""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig


def curricularface_ms1mv2_r100() -> TrainConfig:
    """Give CurricularFace's training: LFW 99.80, AgeDB 98.37, CFP-FP 98.36, CPLFW 93.13.

    Single precision, no clipping, no weight decay on batch normalisation. `iresnet100` stands for
    its IR-101, whose blocks lack the normalisation between the two convolutions, and whose first
    shortcut is a pooling layer.

    Data: MS1MV2, 85,742 identities, 5.8 million images.

    Source: HuangYG123/CurricularFace@68c8727f: config.py (batch 512, lr 0.1 / 10 at epochs 10, 18
    and 22 of 24, weight decay 5e-4), util/utils.py (none on batch normalisation), head/metrics.py
    (m 0.5, s 64, 0.01 of the new mean), backbone/model_irse.py (dropout 0.4).
    """
    return TrainConfig(
        data=DataConfig(batch_size=512),
        backbone=Component("iresnet100", {"dropout": 0.4}),
        loss=Component("curricularface", {"margin": 0.5, "scale": 64.0, "cosine_momentum": 0.01}),
        optimizer=OptimizerConfig(
            no_decay="norm", schedule="step", milestones="10/24,18/24,22/24", clip_norm=0.0
        ),
        epochs=24,
        precision="fp32",
    )
