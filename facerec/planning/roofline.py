"""How long a training step takes at least, and what binds it.

A step multiplies matrices, moves bytes through memory, and sends bytes to other workers. Each part
takes as long as the slower of its arithmetic and its traffic (the roofline of Williams, Waterman
and Patterson, "Roofline: An Insightful Visual Performance Model for Multicore Architectures", CACM
2009). docs/planning.md has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass

from facerec import losses
from facerec.config import TrainConfig
from facerec.losses import LOSSES
from facerec.losses.scf import ConfidenceLikelihood
from facerec.planning.cost import NetCost
from facerec.planning.devices import Rates, summed
from facerec.tree import in_section

BOUNDS = ("compute", "memory", "communication")

# Passes over memory, each a read or a write of all numbers concerned.
_SAVED = 5  # write, the consumer's read, backward's read, its gradient written and read
_LOGITS = 6  # (rows, classes): two in each of forward's product, forward's reduction, backward
_WEIGHTS = 8  # read twice; gradient written, read; weight and momentum read and written
_CLIPPED = 3  # the gradient: read for its norm, read and written to scale it
_MOMENT = 2  # a second moment, read and written
_FORWARD, _TRAINED = 2, 6  # flop per multiply-add: forward; and both gradients


@dataclass(frozen=True)
class Step:
    """What one step has to do, over all workers.

    Attributes:
        net: The backbone's cost.
        images: Of the global batch.
        workers: That share images and classes evenly.
        classes: Over all workers.
        embedding_size: Length D of an embedding.
        number_bytes: Of a number in the backbone: 4, or 2 in half precision.
        sample_rate: Share of the classes that a step compares with.
        views: Embeddings of each image.
        queue: Past embeddings that are compared again.
        trains_backbone: Whether it learns.
        moments: Numbers that the optimizer keeps per weight.
        clips: Whether gradients are clipped.
        parts: That the batch is cut into, one after the other.
        whole: Whether the loss needs all logits of a part at once, not block by block.
    """

    net: NetCost
    images: int
    workers: int
    classes: int
    embedding_size: int
    number_bytes: int = 4
    sample_rate: float = 1.0
    views: int = 1
    queue: int = 0
    trains_backbone: bool = True
    moments: int = 1
    clips: bool = True
    parts: int = 1
    whole: bool = False

    @classmethod
    def of(
        cls, config: TrainConfig, net: NetCost, *, classes: int, workers: int, number_bytes: int
    ) -> Step:
        """Give the step of a training.

        Args:
            config: The training.
            net: Its backbone's cost.
            classes: Of its data.
            workers: Processes that train it.
            number_bytes: As above.

        Raises:
            ConfigError: For a value of the loss that does not fit so many classes.
        """
        head, optimizer, name = config.head, config.optimizer, config.loss.name
        loss = in_section(
            "loss",
            lambda: losses.build(
                name,
                config.loss.args,
                num_classes=classes,
                embedding_size=head.embedding_size,
                sample_rate=head.sample_rate,
            ),
        )
        queue = LOSSES[name].queue_size if head.queue_size is None else head.queue_size
        return cls(
            net,
            images=config.data.batch_size,
            workers=workers,
            classes=classes,
            embedding_size=head.embedding_size,
            number_bytes=number_bytes,
            sample_rate=head.sample_rate,
            views=1 if loss.regularizer is None else loss.regularizer.views,
            queue=queue,
            trains_backbone=not isinstance(loss.objective, ConfidenceLikelihood),
            moments=2 if optimizer.name == "adamw" else 1,
            clips=optimizer.clip_norm > 0,
            parts=optimizer.accumulate,
            whole=loss.margin.others_limit is None,
        )

    @property
    def rows(self) -> int:
        """Embeddings of the global batch."""
        return self.views * self.images

    @property
    def held(self) -> float:
        """Classes of a worker."""
        return self.classes / self.workers

    @property
    def met(self) -> float:
        """Classes of a worker that a step compares with: the batch's own are always among them."""
        own = min(self.images, self.classes) / self.workers
        return min(max(self.sample_rate * self.held, own), self.held)


@dataclass(frozen=True)
class Bound:
    """Seconds that one step takes at least, by what they are spent on.

    Attributes:
        images: Of the step.
        compute: Where arithmetic is slower than memory.
        memory: Where memory is slower.
        communication: Sent while nothing else is left to do.
    """

    images: int
    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.compute + self.memory + self.communication

    @property
    def images_per_second(self) -> float:
        """What is possible."""
        return self.images / self.seconds

    @property
    def by(self) -> str:
        """What most of the seconds are spent on."""
        return max(BOUNDS, key=lambda name: float(getattr(self, name)))


def bound(step: Step, rates: Rates) -> Bound:
    """Give the least seconds of a step on devices of these rates."""
    net, own = step.net, step.images / step.workers
    flop = _TRAINED if step.trains_backbone else _FORWARD
    backbone = (
        flop * net.multiply_adds * own / rates.matrix,
        _SAVED * step.number_bytes * net.saved * own / rates.bandwidth,
    )
    # With a queue the batch teaches the backbone alone, and together with the queue the centers.
    pairs = step.rows * step.met
    products = 3 * pairs if not step.queue else 2 * (2 * pairs + step.queue * step.met)
    head = (
        2 * products * step.embedding_size / rates.single,
        _LOGITS * 4 * (products / 3) / rates.bandwidth,
    )
    passes = _WEIGHTS + _MOMENT * (step.moments - 1) + _CLIPPED * step.clips
    weights = step.met * step.embedding_size + net.parameters * step.trains_backbone
    parts = [backbone, head, (0.0, passes * 4 * weights / rates.bandwidth)]
    seconds = {"compute": 0.0, "memory": 0.0}
    for arithmetic, traffic in parts:
        name = "compute" if arithmetic >= traffic else "memory"
        seconds[name] += max(arithmetic, traffic)
    return Bound(step.images, **seconds, communication=_exposed(step, rates, max(backbone)))


def _exposed(step: Step, rates: Rates, backbone: float) -> float:
    """Seconds of sending during which nothing is computed, for `backbone` seconds of its own."""
    if step.workers == 1:
        return 0.0
    embeddings = 4.0 * step.rows * step.embedding_size
    # Gathered once; their gradient is summed. Sums over the classes are a few numbers a row.
    head = summed(embeddings, step.workers) / 2 + summed(embeddings + 16 * step.rows, step.workers)
    gradients = summed(4.0 * step.net.parameters, step.workers) if step.trains_backbone else 0.0
    hidden = backbone * 2 / 3  # of the backbone's gradients, during its backward pass
    return head / rates.link + max(gradients / rates.link - hidden, 0.0)
