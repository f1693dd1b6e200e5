"""What the repositories of published recipes say, written down apart from the presets."""

from __future__ import annotations

from dataclasses import dataclass

CASIA, MS1MV2, MS1MV3 = 490_623, 5_822_653, 5_179_510
WEBFACE4M, GLINT360K = 4_235_242, 17_091_657


@dataclass(frozen=True)
class Published:
    """What a repository says, in its own units.

    Attributes:
        images: Of the training set.
        batch: Images per step over all its devices.
        epochs: Of the whole training.
        drops: Epochs after which the rate is a tenth; None: a straight line to 0.
        decay: Weight decay.
        clip: Norm at which the gradient is clipped and of what; 0 is nowhere.
        net: Backbone and dropout.
    """

    images: int
    batch: int
    epochs: float
    drops: tuple[float, ...] | None
    clip: tuple[float, str]
    net: tuple[str, float]
    decay: float = 5e-4


def arcface_torch(images: int, net: tuple[str, float], decay: float = 5e-4) -> Published:
    return Published(images, 1024, 20, None, (5, "backbone"), net, decay)


R50, R100 = ("iresnet50", 0.0), ("iresnet100", 0.0)
R50_DROP, R100_DROP = ("iresnet50", 0.4), ("iresnet100", 0.4)
ELASTIC = Published(MS1MV2, 512, 26, (7, 13, 19, 24), (5, "backbone"), R100)

PUBLISHED = {
    "uniface_casia_r50": Published(CASIA, 512, 28, (16, 24), (10, "all"), ("lresnet50e_ir", 0.4)),
    # 28,000 iterations of 256 images, falling after 16,000 and 24,000; 1,920 of them an epoch.
    "uniformface_casia_sphereface20": Published(
        1920 * 256,
        256,
        28_000 / 1920,
        (16_000 / 1920, 24_000 / 1920),
        (0, ""),
        ("sphereface20", 0.0),
    ),
    "contraface_ms1mv2_r100": Published(MS1MV2, 512, 24, (7, 13, 19), (5, "backbone"), R100_DROP),
    "contraface_casia_r50": Published(CASIA, 512, 40, (21, 29), (5, "backbone"), R50_DROP),
    "magface_ms1mv2_r50": Published(MS1MV2, 512, 25, (10, 18, 22), (0, ""), R50_DROP),
    "magface_ms1mv2_r100": Published(MS1MV2, 512, 25, (10, 18, 22), (0, ""), R100_DROP),
    "arcface_ms1mv2_r50": arcface_torch(MS1MV2, R50),
    "arcface_ms1mv2_r100": arcface_torch(MS1MV2, R100),
    "arcface_ms1mv3_r50": arcface_torch(MS1MV3, R50),
    "arcface_ms1mv3_r100": arcface_torch(MS1MV3, R100),
    "cosface_webface4m_r50": arcface_torch(WEBFACE4M, R50),
    "cosface_webface4m_r100": arcface_torch(WEBFACE4M, R100),
    "cosface_glint360k_r50": arcface_torch(GLINT360K, R50, 1e-4),
    "cosface_glint360k_r100": arcface_torch(GLINT360K, R100, 1e-4),
    "curricularface_ms1mv2_r100": Published(MS1MV2, 512, 24, (10, 18, 22), (0, ""), R100_DROP),
    "adaface_ms1mv2_r50": Published(MS1MV2, 512, 26, (12, 20, 24), (0, ""), R50_DROP),
    "adaface_ms1mv2_r100": Published(MS1MV2, 512, 26, (12, 20, 24), (0, ""), R100_DROP),
    "elasticface_arc_ms1mv2_r100": ELASTIC,
    "elasticface_arc_plus_ms1mv2_r100": ELASTIC,
    "elasticface_cos_ms1mv2_r100": ELASTIC,
    "elasticface_cos_plus_ms1mv2_r100": ELASTIC,
    "elasticface_arc_casia_r50": Published(CASIA, 512, 40, (21, 29, 39), (5, "backbone"), R50_DROP),
}

# Parameters of the authors' own modules (UniFace's without its loss), and billions of multiply-adds
# of one image: 6.3 and 12.1 from arcface_torch's README; SphereFace-20's from its table below.
PARAMETERS = {
    "iresnet50": 43_590_848,
    "iresnet100": 65_156_160,
    "lresnet50e_ir": 42_377_920,
    "sphereface20": 24_505_664,
}
GIGA = {"iresnet50": 6.3, "iresnet100": 12.1}
# SphereFace, CVPR 2017, table 2, 20 layers: channels and residual units of each stage.
SPHEREFACE20 = ((64, 1), (128, 2), (256, 4), (512, 1))

# What only some recipes say: keys of the config beyond those of `Published`.
SPECIAL: dict[str, dict[str, object]] = {
    "uniface_casia_r50": {
        "optimizer.accumulate": 4,
        "loss.margin": 0.4,
        "loss.scale": 64,
        "loss.negative_weight": 1,
        "loss.bias_init": "log_10rc",
        "loss.bias_weight_decay": None,
        "head.sample_rate": 1,
        "precision": "auto",
    },
    "uniformface_casia_sphereface20": {
        "optimizer.no_decay": "bias,prelu",
        "loss.margin": 4,
        "loss.base": 1000,
        "loss.gamma": 0.12,
        "loss.power": 1,
        "loss.lambda_min": 5,
        "loss.alpha": 1,
        "loss.beta": 0,
        "loss.in_batch": True,
    },
    "contraface_ms1mv2_r100": {
        "backbone.view_dropout": 0.6,
        "loss.regularizer_start": 8 / 24,
        "loss.contrast_weight": 0.05,
        "loss.contrast_group": 128,
        "loss.margin": 0.5,
    },
    "contraface_casia_r50": {
        "backbone.view_dropout": 0.6,
        "loss.regularizer_start": 21 / 40,
        "loss.contrast_weight": 0.05,
    },
    "magface_ms1mv2_r50": {
        "loss.margin_low": 0.45,
        "loss.margin_high": 0.8,
        "loss.norm_low": 10,
        "loss.norm_high": 110,
        "loss.lambda_g": 35,
        "loss.past_pi": "easy",
        "precision": "fp32",
    },
    "arcface_ms1mv2_r50": {
        "loss.gradient": "detached",
        "loss.past_pi": "none",
        "loss.margin": 0.5,
        "precision": "auto",
    },
    "cosface_glint360k_r100": {"loss.margin": 0.4, "loss.scale": 64},
    "curricularface_ms1mv2_r100": {
        "optimizer.no_decay": "norm",
        "loss.margin": 0.5,
        "loss.cosine_momentum": 0.01,
    },
    "adaface_ms1mv2_r100": {
        "optimizer.no_decay": "norm",
        "loss.margin": 0.4,
        "loss.concentration": 0.333,
        "loss.norm_momentum": 0.01,
        "data.augment.crop": 0.2,
        "data.augment.low_res": 0.2,
        "data.augment.photometric": 0.2,
    },
    "elasticface_arc_ms1mv2_r100": {"loss.variant": "arc", "loss.margin": 0.5, "loss.sigma": 0.05},
    "elasticface_arc_plus_ms1mv2_r100": {"loss.sigma": 0.0175, "loss.plus": True},
    "elasticface_cos_ms1mv2_r100": {"loss.variant": "cos", "loss.margin": 0.35, "loss.sigma": 0.05},
    "elasticface_cos_plus_ms1mv2_r100": {"loss.sigma": 0.02, "loss.plus": True},
}
