"""Ready-made configs: a whole `TrainConfig` under a name, to start from.

`laptop` is the project's own. The others are published recipes, one file per repository: schedule,
batch, backbone, augmentation and loss as the authors' code has them, with what this house does
otherwise said in the docstring. Each docstring has a paragraph `Data: ...` and one `Source: ...`,
from which docs/presets.md is made.
"""

from __future__ import annotations

from collections.abc import Callable

from facerec.config import (
    Component,
    DataConfig,
    EvalConfig,
    HeadConfig,
    OptimizerConfig,
    TrainConfig,
)
from facerec.data.augment import Augment
from facerec.presets import (
    adaface,
    arcface,
    contraface,
    curricularface,
    elasticface,
    magface,
    uniface,
    uniformface,
)

UNIFACE = Component("uniface")


def laptop(loss: Component = UNIFACE) -> TrainConfig:
    """Give a training that fits two CPU cores: the `tiny` backbone, a few minutes per model.

    On 3,665 images of faces it learns clearly (from 72 % for whitened pixels to 86 % on pairs of
    LFW) in a minute and a half of one core. Its scores are far from published ones, which come
    from millions of images; it is for comparing, and for trying things out.

    Data: any, a few thousand images.

    Source: this project, docs/architecture.md.
    """
    return TrainConfig(
        loss=loss,
        eval=EvalConfig(every=2),  # measuring 2,400 images of pairs costs half an epoch
        backbone=Component("tiny"),
        head=HeadConfig(embedding_size=128),
        data=DataConfig(
            batch_size=64,
            augment=Augment(
                rotate=0.15, scale=0.08, shift=0.05, brightness=0.15, contrast=0.15, grey=0.2
            ),
        ),
        optimizer=OptimizerConfig(lr=0.05, schedule="one_cycle", clip_norm=5.0),
        epochs=16,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    preset.__name__: preset
    for preset in (
        laptop,
        uniface.uniface_casia_r50,
        uniformface.uniformface_casia_sphereface20,
        contraface.contraface_ms1mv2_r100,
        contraface.contraface_casia_r50,
        magface.magface_ms1mv2_r50,
        magface.magface_ms1mv2_r100,
        arcface.arcface_ms1mv2_r50,
        arcface.arcface_ms1mv2_r100,
        arcface.arcface_ms1mv3_r50,
        arcface.arcface_ms1mv3_r100,
        arcface.cosface_webface4m_r50,
        arcface.cosface_webface4m_r100,
        arcface.cosface_glint360k_r50,
        arcface.cosface_glint360k_r100,
        curricularface.curricularface_ms1mv2_r100,
        adaface.adaface_ms1mv2_r50,
        adaface.adaface_ms1mv2_r100,
        elasticface.elasticface_arc_ms1mv2_r100,
        elasticface.elasticface_arc_plus_ms1mv2_r100,
        elasticface.elasticface_cos_ms1mv2_r100,
        elasticface.elasticface_cos_plus_ms1mv2_r100,
        elasticface.elasticface_arc_casia_r50,
    )
}
