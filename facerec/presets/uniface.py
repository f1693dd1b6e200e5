"""UniFace: CVI-SZU/UniFace."""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig


def uniface_casia_r50() -> TrainConfig:
    """Give the training of UniFace's released model: 48.42 on MR-All, 99.56 on LFW.

    512 images in four parts of 128, with batch statistics of each part; no warm-up; mixed
    precision. The net freezes the weight of its last normalisation, keeps PReLU slopes at 0.01 or
    more and starts each residual branch at zero (`lresnet50e_ir`). Centers start here with a
    standard deviation of 0.01 instead of 1/√512.

    Data: CASIA-WebFace, 10,572 identities, 490,623 images.

    Source: CVI-SZU/UniFace@00ade470: train.py (batch 128 x 4, lr 0.1 / 10 at epochs 16 and 24 of
    28, clip 10 over all parameters), head.py (m 0.4, s 64, l 1, r 1, b = ln 10C), backbone.py.
    """
    return TrainConfig(
        data=DataConfig(batch_size=512),
        backbone=Component("lresnet50e_ir", {"dropout": 0.4}),
        loss=Component(
            "uniface",
            {"margin": 0.4, "scale": 64.0, "negative_weight": 1.0, "bias_init": "log_10rc"},
        ),
        optimizer=OptimizerConfig(
            schedule="step",
            milestones="16/28,24/28",
            clip_norm=10.0,
            clip_scope="all",
            accumulate=4,
        ),
        epochs=28,
    )
