"""The config of one training: a frozen tree of dataclasses, changed through one door.

`override(config, {"loss.margin": 0.4})` serves the command line, the sweep and the tests; the
dotted keys it takes are the ones that `flatten` gives back, the tables' columns and the plots'
axes. What the data fixes (the number of classes and images) stands in its `index.json`, never here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from facerec import backbones, losses
from facerec.data.augment import Augment
from facerec.data.cache import CACHES
from facerec.data.sampling import SAMPLING
from facerec.data.writer import write_json
from facerec.domains import Scalar
from facerec.precision import PRECISIONS
from facerec.tree import Component, check_components, component, flatten, override, parse
from facerec.values import ConfigError, above_zero, at_least, one_of, within

__all__ = [
    "Component",
    "ConfigError",
    "TrainConfig",
    "flatten",
    "load",
    "override",
    "parse",
    "published",
    "save",
]


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from, and what is measured on.

    Attributes:
        train: Folder of training shards.
        eval: Folders of further evaluation sets, separated by commas; the `val` split of the
            training shards is always evaluated where it exists.
        batch_size: Images per step over all workers.
        sampling: `images`: each image once an epoch. `identities`: each batch holds
            `images_per_identity` images of each of its identities, which are drawn equally often;
            an epoch is as many batches as with `images` (`facerec.data.sampling`).
        images_per_identity: For `sampling=identities`; divides `batch_size`.
        decoders: Threads that decode images for one worker.
        cache: `none`: images are decoded in each epoch. `memory`: once per machine, into a file
            that all its trainings map into memory (N x height x width x 3 bytes of disk). `device`:
            from that file onto the accelerator, the whole set; the same as `memory` on a CPU.
            Batches are equal to the bit with all three (`facerec.data.cache`).
        cache_dir: Folder of such files; empty is `$XDG_CACHE_HOME/facerec/decoded`.
        augment: Changes to the training images.
    """

    train: str = ""
    eval: str = ""
    batch_size: int = 512
    sampling: str = "images"
    images_per_identity: int = 4
    decoders: int = 1
    cache: str = "none"
    cache_dir: str = ""
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        at_least("batch_size", self.batch_size, 1)
        one_of("sampling", self.sampling, SAMPLING)
        at_least("images_per_identity", self.images_per_identity, 1)
        if self.sampling == "identities" and self.batch_size % self.images_per_identity:
            each = self.images_per_identity
            raise ValueError(
                f"batch_size = {self.batch_size}: data.sampling=identities takes a multiple of "
                f"data.images_per_identity={each}, such as {-(-self.batch_size // each) * each}"
            )
        within("decoders", self.decoders, 1, 64)
        one_of("cache", self.cache, CACHES)

    @property
    def eval_sets(self) -> tuple[Path, ...]:
        """The evaluation sets' folders."""
        return tuple(Path(item.strip()) for item in self.eval.split(",") if item.strip())


@dataclass(frozen=True)
class HeadConfig:
    """The classification head (`facerec.head`).

    Attributes:
        embedding_size: Length D of an embedding.
        sample_rate: Share of the classes that each step compares with (PartialFC); 1 is all.
        center_storage: `free`: centers are normalised in the graph; `unit`: overwritten by
            their unit vectors before each step (opensphere).
    """

    embedding_size: int = 512
    sample_rate: float = 1.0
    center_storage: str = "free"
    queue_size: int | None = None
    queue_compensate: bool = True
    queue_start: float = 0.0

    def __post_init__(self) -> None:
        at_least("embedding_size", self.embedding_size, 2)
        above_zero("sample_rate", self.sample_rate, 1)
        one_of("center_storage", self.center_storage, ("free", "unit"))
        if self.queue_size is not None:
            at_least("queue_size", self.queue_size, 0)
        within("queue_start", self.queue_start, 0, 1)


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights move.

    Attributes:
        name: `sgd` or `adamw`.
        lr: Peak learning rate, for the whole batch.
        momentum: SGD's momentum (AdamW keeps its own betas).
        weight_decay: On every parameter; a loss may set its own for its bias.
        no_decay: Which parameters of the backbone have none, separated by commas: `norm` (weights
            and biases of normalisation layers), `bias` (every bias), `prelu` (slopes).
        schedule: `step`, `poly`, `cosine` or `one_cycle` (`facerec.optimizer.learning_rate`).
        warmup_epochs: Epochs of linear rise before step, poly and cosine.
        milestones: Fractions of the training at which `step` multiplies the rate by `decay`,
            separated by commas: 0.57 or, exact to the step, 16/28 (after 16 of 28 epochs).
        decay: The factor of `step`.
        power: The exponent of `poly`.
        clip_norm: Largest global norm of the gradient; 0 turns clipping off.
        clip_scope: `all` (as UniFace) or `backbone` (as arcface_torch).
        accumulate: Parts that a batch is cut into, one after the other, to save memory.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    no_decay: str = ""
    schedule: str = "poly"
    warmup_epochs: float = 0.0
    milestones: str = "0.57,0.86"
    decay: float = 0.1
    power: float = 2.0
    clip_norm: float = 5.0
    clip_scope: str = "all"
    accumulate: int = 1

    def __post_init__(self) -> None:
        one_of("name", self.name, ("sgd", "adamw"))
        one_of("schedule", self.schedule, ("step", "poly", "cosine", "one_cycle"))
        one_of("clip_scope", self.clip_scope, ("all", "backbone"))
        above_zero("lr", self.lr, 100)
        within("momentum", self.momentum, 0, 0.9999)
        for name in ("weight_decay", "warmup_epochs", "decay", "power", "clip_norm"):
            at_least(name, getattr(self, name), 0)
        at_least("accumulate", self.accumulate, 1)
        if self.schedule == "one_cycle" and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs}: one_cycle rises by itself over its first "
                "30 %; set optimizer.warmup_epochs=0 or another optimizer.schedule"
            )
        for milestone in self.milestone_fractions:
            within("milestones", milestone, 0, 1)
        for kind in self.no_decay_kinds:
            one_of("no_decay", kind, ("norm", "bias", "prelu"))

    @property
    def no_decay_kinds(self) -> frozenset[str]:
        """`no_decay` as a set of words."""
        return frozenset(kind.strip() for kind in self.no_decay.split(",") if kind.strip())

    @property
    def milestone_fractions(self) -> tuple[float, ...]:
        """`milestones` as numbers, in rising order."""
        try:
            parts = [Fraction(part) for part in self.milestones.split(",") if part.strip()]
            return tuple(sorted(float(part) for part in parts))
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(
                f"milestones = {self.milestones!r}: takes fractions of the training separated by "
                "commas, such as 0.57,0.86 or 16/28,24/28"
            ) from None


@dataclass(frozen=True)
class EvalConfig:
    """When it is measured, and what.

    Attributes:
        every: The evaluation sets each so many epochs, and always at the end.
        geometry: After each epoch, how the centers stand and whether one threshold serves all
            classes (`facerec.evaluation.geometry`), on a sample of the training images.
    """

    every: int = 1
    geometry: bool = True

    def __post_init__(self) -> None:
        at_least("every", self.every, 1)


@dataclass(frozen=True)
class CheckpointConfig:
    """When it is saved: at the end of each epoch, and each `every` steps (0: no oftener).

    A thread writes while the training goes on. The newest two checkpoints stay, one where the
    training is over.
    """

    every: int = 0

    def __post_init__(self) -> None:
        at_least("every", self.every, 0)


@dataclass(frozen=True)
class TrainConfig:
    """One training, whole.

    Attributes:
        epochs: Passes over the training images; may be a fraction.
        precision: `fp32`, `bf16` or `fp16` (autocast in the backbone, with a scaled loss for fp16;
            the head stays in fp32), or `auto`: bf16 on an accelerator that has it, else fp32.
        compile: Whether `torch.compile` makes kernels for the backbone, a minute or more at the
            start: `on`, `off` or `auto`, on for accelerators and off for CPUs.
        seed: Where every random number of the training comes from.
        deterministic: On an accelerator, only algorithms whose sums have one order, so that a
            resumed run gives the same weights to the bit; slower. CPUs do without.
        init_from: Run folder or checkpoint whose backbone a new training starts from, and the
            centers of the identities that both sets name; empty starts from drawn weights.
            `loss.name=scf` needs one.
    """

    data: DataConfig = field(default_factory=DataConfig)
    backbone: Component = component(
        "iresnet50", check=backbones.check, keywords=lambda name, args: backbones.keywords(name)
    )
    loss: Component = component("uniface", check=losses.check, keywords=losses.keywords)
    head: HeadConfig = field(default_factory=HeadConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    epochs: float = 20.0
    precision: str = "auto"
    compile: str = "auto"
    seed: int = 1
    deterministic: bool = False
    init_from: str = ""

    def __post_init__(self) -> None:
        above_zero("epochs", self.epochs, 100_000)
        one_of("precision", self.precision, ("auto", *PRECISIONS))
        one_of("compile", self.compile, ("auto", "on", "off"))
        at_least("seed", self.seed, 0)
        check_components(self)
        self._check_views()

    def _check_views(self) -> None:
        """Refuse a loss that compares two views of an image where these cannot differ."""
        regularizer = losses.parts(self.loss.name, self.loss.args)[2]
        drawn = {**backbones.keywords(self.backbone.name), **self.backbone.args}
        rate = drawn["dropout"] if drawn["view_dropout"] is None else drawn["view_dropout"]
        if regularizer is not None and regularizer.views > 1 and not rate:
            raise ConfigError(
                f"backbone.view_dropout = {drawn['view_dropout']}: loss {self.loss.name} compares "
                "two draws of dropout over an image, which are equal without any; give "
                "backbone.view_dropout=0.6 (ContraFace's)"
            )


def save(config: TrainConfig, path: Path) -> None:
    """Write every dotted key as JSON, aside and then in place."""
    write_json(path, flatten(config))


def published(config: TrainConfig) -> dict[str, Scalar]:
    """Give every dotted key; of folders only their names, since where they lay concerns nobody."""
    flat = flatten(config)
    for key in ("data.train", "data.eval", "data.cache_dir", "init_from"):
        flat[key] = ",".join(Path(part.strip()).name for part in str(flat[key]).split(","))
    return flat


def load(path: Path) -> TrainConfig:
    """Read what `save` wrote.

    Raises:
        ConfigError: Where the file is missing, is not such JSON, or holds a key unknown here.
    """
    try:
        flat = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not a saved config ({error})") from None
    if not isinstance(flat, dict):
        raise ConfigError(f"{path}: not a saved config (holds no table of keys)")
    return override(TrainConfig(), flat)
