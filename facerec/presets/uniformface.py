"""UniformFace, as re-implemented: ka-tsu-mo/pytorch-uniformface."""

from __future__ import annotations

from facerec.config import Component, DataConfig, OptimizerConfig, TrainConfig


def uniformface_casia_sphereface20() -> TrainConfig:
    """Give the public re-implementation's training: 98.68 on LFW (98.97 with alpha 0).

    No code of the authors is public. A-softmax (m 4) with the uniform term, SphereFace-20 without
    batch normalisation. 28,000 iterations are 14.58 epochs of the 1,920 batches that its config
    counts (the last one incomplete there, dropped here); milestones and end are the same shares of
    the training with any number of images. It leaves out identities with fewer than 3 images and
    3 that LFW shares.

    Data: CASIA-WebFace, images of identities with 3 or more, 1,920 batches of 256.

    Source: ka-tsu-mo/pytorch-uniformface@5fcd42a1: code/config.yaml (batch 256, 28,000 iterations,
    lr 0.1 / 10 at 16,000 and 24,000, weight decay 5e-4, alpha 1, beta 0), code/train.py (none on
    biases and PReLU), code/losses.py (m 4).
    """
    return TrainConfig(
        data=DataConfig(batch_size=256),
        backbone=Component("sphereface20"),
        loss=Component("uniformface", {"margin": 4, "alpha": 1.0, "beta": 0.0, "in_batch": True}),
        optimizer=OptimizerConfig(
            no_decay="bias,prelu", schedule="step", milestones="16/28,24/28", clip_norm=0.0
        ),
        epochs=28_000 / 1_920,
        precision="fp32",
    )
