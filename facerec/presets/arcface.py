"""ArcFace and CosFace as arcface_torch trains them: deepinsight/insightface.

All share one recipe: 20 epochs, lr 0.1 falling in a straight line to 0 without warm-up, gradient
clipped at 5 on the backbone, mixed precision, 128 images on each of the 8 GPUs of its tables.
"""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig

# The margin runs under `no_grad` there, without a rule past π.
ARCFACE = Component(
    "arcface", {"margin": 0.5, "scale": 64.0, "gradient": "detached", "past_pi": "none"}
)
COSFACE = Component("cosface", {"margin": 0.4, "scale": 64.0})


def arcface_ms1mv2_r50() -> TrainConfig:
    """Give arcface_torch's ArcFace on MS1MV2: 75.13 on MFR-All, 95.97 on IJB-C at 1e-4.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/ms1mv2_r50.py,
    lr_scheduler.py (power 1), train_v2.py (clip 5), README.md (8 GPUs).
    """
    return _arcface_torch("iresnet50", ARCFACE)


def arcface_ms1mv2_r100() -> TrainConfig:
    """Give arcface_torch's ArcFace on MS1MV2: 78.12 on MFR-All, 96.37 on IJB-C at 1e-4.

    Data: MS1MV2, 85,742 identities, 5,822,653 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/ms1mv2_r100.py.
    """
    return _arcface_torch("iresnet100", ARCFACE)


def arcface_ms1mv3_r50() -> TrainConfig:
    """Give arcface_torch's ArcFace on MS1MV3: 79.14 on MFR-All, 96.37 on IJB-C at 1e-4.

    Data: MS1MV3, 93,431 identities, 5,179,510 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/ms1mv3_r50.py.
    """
    return _arcface_torch("iresnet50", ARCFACE)


def arcface_ms1mv3_r100() -> TrainConfig:
    """Give arcface_torch's ArcFace on MS1MV3: 81.97 on MFR-All, 96.85 on IJB-C at 1e-4.

    Data: MS1MV3, 93,431 identities, 5,179,510 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/ms1mv3_r100.py.
    """
    return _arcface_torch("iresnet100", ARCFACE)


def cosface_webface4m_r50() -> TrainConfig:
    """Give arcface_torch's CosFace on WebFace4M, the smaller net.

    Data: WebFace4M, 205,990 identities, 4,235,242 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/wf4m_r50.py.
    """
    return _arcface_torch("iresnet50", COSFACE)


def cosface_webface4m_r100() -> TrainConfig:
    """Give arcface_torch's CosFace on WebFace4M: 89.87 on MFR-All, 97.19 on IJB-C at 1e-4.

    Data: WebFace4M, 205,990 identities, 4,235,242 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/wf4m_r100.py.
    """
    return _arcface_torch("iresnet100", COSFACE)


def cosface_glint360k_r50() -> TrainConfig:
    """Give arcface_torch's CosFace on Glint360K: 86.34 on MFR-All, 97.16 on IJB-C at 1e-4.

    Data: Glint360K, 360,232 identities, 17,091,657 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/glint360k_r50.py
    (weight decay 1e-4).
    """
    return _arcface_torch("iresnet50", COSFACE, weight_decay=1e-4)


def cosface_glint360k_r100() -> TrainConfig:
    """Give arcface_torch's CosFace on Glint360K: 89.52 on MFR-All, 97.55 on IJB-C at 1e-4.

    Data: Glint360K, 360,232 identities, 17,091,657 images.

    Source: deepinsight/insightface@7fadd420: recognition/arcface_torch/configs/glint360k_r100.py
    (weight decay 1e-4).
    """
    return _arcface_torch("iresnet100", COSFACE, weight_decay=1e-4)


def _arcface_torch(backbone: str, loss: Component, weight_decay: float = 5e-4) -> TrainConfig:
    return TrainConfig(
        data=DataConfig(batch_size=1024),
        backbone=Component(backbone, {"dropout": 0.0}),
        loss=loss,
        optimizer=OptimizerConfig(
            weight_decay=weight_decay,
            schedule="poly",
            power=1.0,
            clip_norm=5.0,
            clip_scope="backbone",
        ),
        epochs=20,
    )
