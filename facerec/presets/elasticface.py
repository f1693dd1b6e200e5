"""ElasticFace: fdbtrs/ElasticFace.

All share batch 128 x 4, lr 0.1, weight decay 5e-4, single precision, and a gradient clipped at 5 on
the backbone. The rate falls one epoch before the numbers in its config, which compares `m - 1` with
the epoch counted from 0.
"""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig
from facerec.tree import Args

ARC: Args = {"variant": "arc", "margin": 0.5, "sigma": 0.05, "scale": 64.0, "past_pi": "none"}
COS: Args = {"variant": "cos", "margin": 0.35, "sigma": 0.05, "scale": 64.0}
# Which row gets which margin is a permutation gone wrong there; the published models have it.
PLUS: Args = {"plus": True, "plus_assignment": "reference"}


def elasticface_arc_ms1mv2_r100() -> TrainConfig:
    """Give ElasticFace-Arc: margins drawn around 0.5.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: fdbtrs/ElasticFace@5496ec06: config/config.py (ElasticArcFace: std 0.05; lr 0.1 / 10
    after epochs 7, 13, 19 and 24 of 26), train.py (batch 128 x 4, clip 5 on the backbone).
    """
    return _on_ms1mv2(ARC)


def elasticface_arc_plus_ms1mv2_r100() -> TrainConfig:
    """Give ElasticFace-Arc+: as Arc, with margins handed out by rank.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: fdbtrs/ElasticFace@5496ec06: config/config.py (ElasticArcFacePlus: std 0.0175).
    """
    return _on_ms1mv2({**ARC, **PLUS, "sigma": 0.0175})


def elasticface_cos_ms1mv2_r100() -> TrainConfig:
    """Give ElasticFace-Cos: margins drawn around 0.35.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: fdbtrs/ElasticFace@5496ec06: config/config.py (ElasticCosFace: std 0.05).
    """
    return _on_ms1mv2(COS)


def elasticface_cos_plus_ms1mv2_r100() -> TrainConfig:
    """Give ElasticFace-Cos+: as Cos, with margins handed out by rank.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: fdbtrs/ElasticFace@5496ec06: config/config.py (ElasticCosFacePlus: std 0.02).
    """
    return _on_ms1mv2({**COS, **PLUS, "sigma": 0.02})


def elasticface_arc_casia_r50() -> TrainConfig:
    """Give ElasticFace-Arc on CASIA-WebFace, the repository's smaller training.

    Data: CASIA-WebFace, 10,572 identities, 490,623 images (501,195 in its config).

    Source: fdbtrs/ElasticFace@5496ec06: config/config.py (webface: lr 0.1 / 10 after epochs 21, 29
    and 39 of 40), train.py (iresnet50 with dropout 0.4).
    """
    return _elasticface("iresnet50", ARC, 0.4, epochs=40, milestones="21/40,29/40,39/40")


def _on_ms1mv2(loss: Args) -> TrainConfig:
    milestones = "7/26,13/26,19/26,24/26"
    return _elasticface("iresnet100", loss, 0.0, epochs=26, milestones=milestones)


def _elasticface(
    backbone: str, loss: Args, dropout: float, *, epochs: float, milestones: str
) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=512),
        backbone=Component(backbone, {"dropout": dropout}),
        loss=Component("elasticface", loss),
        optimizer=OptimizerConfig(
            schedule="step", milestones=milestones, clip_norm=5.0, clip_scope="backbone"
        ),
        epochs=epochs,
        precision="fp32",
    )
