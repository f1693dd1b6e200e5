"""MagFace: IrvingMeng/MagFace."""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig


def magface_ms1mv2_r50() -> TrainConfig:
    """Give the training of MagFace's run/run.sh, with the smaller net.

    Single precision (the authors saw NaN in half), no clipping. `iresnet50` has the parameters of
    theirs, the weight of its last normalisation trained as there, so that norms are free; with two
    differences: dropout meets single values (whole channels there), and running statistics keep
    0.9 of their past (0.1 there).

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: IrvingMeng/MagFace@99bae614: run/run.sh (batch 512, lr 0.1 / 10 at epochs 10, 18 and 22
    of 25, weight decay 5e-4, norms 10 to 110, margins 0.45 to 0.8, lambda_g 35), models/magface.py
    (easy margin), models/iresnet.py (dropout 0.4, a trained last normalisation).
    """
    return _magface("iresnet50")


def magface_ms1mv2_r100() -> TrainConfig:
    """Give MagFace's training: LFW 99.83, AgeDB 98.17, CFP-FP 98.46, CALFW 96.15, CPLFW 92.87.

    As `magface_ms1mv2_r50`.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: IrvingMeng/MagFace@99bae614: run/run.sh with iresnet100 (batch 512, lr 0.1 / 10 at
    epochs 10, 18 and 22 of 25), models/iresnet.py.
    """
    return _magface("iresnet100")


def _magface(backbone: str) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=512),
        backbone=Component(backbone, {"dropout": 0.4, "free_norm": True}),
        loss=Component(
            "magface",
            {
                "margin_low": 0.45,
                "margin_high": 0.8,
                "norm_low": 10.0,
                "norm_high": 110.0,
                "lambda_g": 35.0,
                "scale": 64.0,
                "past_pi": "easy",
            },
        ),
        optimizer=OptimizerConfig(schedule="step", milestones="10/25,18/25,22/25", clip_norm=0.0),
        epochs=25,
        precision="fp32",
    )
