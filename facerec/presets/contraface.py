"""ContraFace (CoReFace): IsidoreSong/ContraFace."""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig


def contraface_ms1mv2_r100() -> TrainConfig:
    """Give ContraFace's training: LFW 99.83, AgeDB 98.37, CFP-FP 98.60, CALFW 96.20, CPLFW 93.27.

    Two phases: ArcFace with a dropout of 0.4 for 8 epochs, then two views of each image with a
    dropout of 0.6 and the contrast between them, over groups of 128 images (one GPU's there). The
    rate falls after 7 epochs already: the log of the published model goes on from an ArcFace
    checkpoint after 8 epochs (step 90,976 of 11,372 each) and ends after 24; the code begins the
    second phase at the first fall where it starts from nothing.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: IsidoreSong/ContraFace@4431b8b0: config/config.py (batch 128 x 4, lr 0.1 / 10 after
    epochs 7, 13 and 19 of 24, dropout 0.4 and 0.6, weights 0.5, 0.5 and 0.05), train.py (clip 5 on
    the backbone), logs/ContraFace.log (from epoch 8).
    """
    return _contraface("iresnet100", epochs=24, milestones="7/24,13/24,19/24", start=8 / 24)


def contraface_casia_r50() -> TrainConfig:
    """Give ContraFace's smaller training, which its repository offers without results.

    As on MS1MV2; the second phase begins where the rate first falls (step 20,118 of 958 each is
    where its config goes on from ArcFace).

    Data: CASIA-WebFace, 10,572 identities, 490,623 images.

    Source: IsidoreSong/ContraFace@4431b8b0: config/config.py (batch 128 x 4, lr 0.1 / 10 after
    epochs 21 and 29 of 40, second phase after epoch 21), train.py (clip 5 on the backbone).
    """
    return _contraface("iresnet50", epochs=40, milestones="21/40,29/40", start=21 / 40)


def _contraface(backbone: str, *, epochs: float, milestones: str, start: float) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=512),
        backbone=Component(backbone, {"dropout": 0.4, "view_dropout": 0.6}),
        loss=Component(
            "contraface",
            {
                "margin": 0.5,
                "scale": 64.0,
                "past_pi": "none",
                "contrast_weight": 0.05,
                "contrast_momentum": 0.01,
                "contrast_group": 128,
                "regularizer_start": start,
            },
        ),
        optimizer=OptimizerConfig(
            schedule="step", milestones=milestones, clip_norm=5.0, clip_scope="backbone"
        ),
        epochs=epochs,
        precision="fp32",
    )
