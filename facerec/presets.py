"""Ready-made configs: a whole `TrainConfig` under a name, to start from."""

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


def laptop(loss: Component) -> TrainConfig:
    """Give a training that fits two CPU cores: the `tiny` backbone, a few minutes per model.

    On 3,665 images of faces it learns clearly (from 72 % for whitened pixels to 86 % on pairs of
    LFW) in a minute and a half of one core. Its scores are far from published ones, which come
    from millions of images; it is for comparing, and for trying things out.
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


PRESETS: dict[str, Callable[[Component], TrainConfig]] = {"laptop": laptop}
