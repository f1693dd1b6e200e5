"""How much memory a worker of a training takes, part by part."""

from __future__ import annotations

from dataclasses import dataclass, fields

from facerec.fused import KEPT
from facerec.planning.roofline import Step

RESERVE = 0.9  # of what is free may be planned for; the rest is the allocator's and chance's

_FLOAT = 4  # bytes
_PROCESS = 0.6e9  # bytes of libraries and their kernels on an accelerator
# Measured on a processor (docs/planning.md); on an accelerator they were never held against a run.
_WORKSPACE = 1.3  # times the saved numbers: gradients on their way
_SCRATCH = 2  # copies of the backbone's weights that algorithms make for themselves
_UNIT, _IN_FULL = 4, 5  # centers and matrices that a loss of all logits at once holds besides
_PIXEL = 1 + 4 + 4  # bytes of a value: as decoded, as a number, and changed


@dataclass(frozen=True)
class Factors:
    """How many copies of its tensors a head holds.

    Attributes:
        kept: Of all centers, in single precision: weights, and what the optimizer keeps.
        met: Of the centers that a step compares with: their gradient, and copies.
        matrices: Of a (batch, met classes) matrix in single precision.
    """

    kept: float
    met: float
    matrices: float


def head_bytes(
    factors: Factors, *, held: float, met: float, rows: float, embedding_size: int
) -> tuple[float, float]:
    """Bytes of a head on one worker: those of centers, and those of (rows, classes) matrices.

    Args:
        factors: Of the implementation.
        held: Classes of the worker.
        met: Those that a step compares with.
        rows: Embeddings of the global batch.
        embedding_size: D.
    """
    centers = (factors.kept * held + factors.met * met) * _FLOAT * embedding_size
    return centers, factors.matrices * _FLOAT * rows * met


def factors_of(step: Step) -> Factors:
    """Those of this project's head.

    Weights and momentum; a gradient, beside that of the parts before where there are several; and
    the cosines. Sampled rows are copies, and their gradient is put in order once. A loss that
    changes the logits of others holds five matrices, and unit centers with what their gradient
    takes.
    """
    met = (3 if step.sample_rate < 1 else 1) + (step.parts > 1) + _UNIT * step.whole
    return Factors(1 + step.moments, met, _IN_FULL if step.whole else 1)


@dataclass(frozen=True)
class Memory:
    """Bytes of one worker.

    Attributes:
        backbone: Weights, gradients, what the optimizer keeps, and copies on the way.
        activations: What the forward pass keeps for the backward pass, and room to work.
        centers: Of its classes: weights, gradients and what the optimizer keeps.
        logits: Matrices of rows and classes.
        images: The batch, and the whole set where it lies on the device.
        process: What is there before anything is trained.
    """

    backbone: float
    activations: float
    centers: float
    logits: float
    images: float
    process: float

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, field.name) for field in fields(self)))


def predict(step: Step, *, set_bytes: float = 0.0) -> Memory:
    """Predict the memory of one worker.

    Args:
        step: What it has to do.
        set_bytes: Of the decoded set, where it lies on the device.
    """
    net, own = step.net, step.images / step.workers / step.parts
    trained = step.trains_backbone
    copies = (2 + step.moments + (step.workers > 1)) if trained else 1  # and buckets to send
    halves = step.number_bytes if step.number_bytes < _FLOAT else 0
    factors, rows = factors_of(step), step.rows / step.parts
    centers, logits = head_bytes(
        factors, held=step.held, met=step.met, rows=rows, embedding_size=step.embedding_size
    )
    if not step.whole:
        logits = min(logits, KEPT)  # beyond it, blocks are computed twice
    if step.queue:  # compared beside the batch; embeddings and centers as they were
        logits += min(factors.matrices * _FLOAT * (rows + step.queue) * step.met, KEPT)
        centers += 3 * _FLOAT * step.queue * step.embedding_size
    pixels = 3 * net.input_size**2
    return Memory(
        backbone=((copies + _SCRATCH * trained) * _FLOAT + halves) * net.parameters,
        activations=_WORKSPACE * step.number_bytes * net.saved * own * trained,
        centers=centers,
        logits=logits,
        images=_PIXEL * pixels * own + set_bytes,
        process=_PROCESS,
    )
