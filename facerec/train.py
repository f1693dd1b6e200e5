"""The training loop: one function, read from top to bottom.

It knows no Ray and no launcher: where a process group is initialised (Ray Train, torchrun) it
trains with all workers, otherwise alone. What leaves it are reports and checkpoints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from facerec import backbones, checkpoint, history, model_card
from facerec import config as configs
from facerec.backbones.base import shrink
from facerec.checkpoint import Progress
from facerec.config import ConfigError, TrainConfig
from facerec.data.augment import Augment, normalise
from facerec.data.cache import cached
from facerec.data.shards import DataError, Shards
from facerec.data.stream import Batch, Stream
from facerec.divergence import Diverged, StepWatch
from facerec.evaluation import geometry, protocols
from facerec.head import build_head
from facerec.optimizer import clip_gradients, make_optimizer, rate_at
from facerec.parallel import ClassShard
from facerec.tree import in_section

__all__ = ["Diverged", "Report", "log_report", "train"]

Report = Callable[[Mapping[str, float], Path | None], None]


def log_report(metrics: Mapping[str, float], folder: Path | None) -> None:
    """Print one line per report."""
    shown = [f"epoch {metrics['epoch']:g}", f"loss {metrics['loss']:.3f}"]
    shown += [f"{k} {v:.4f}" for k, v in metrics.items() if k.endswith((".tar", ".accuracy"))]
    print("  ".join([*shown, f"{metrics['images_per_second']:.0f} images/s"]), flush=True)


def train(
    config: TrainConfig,
    *,
    run: Path | None = None,
    report: Report = log_report,
    resume_from: Path | None = None,
) -> dict[str, float]:
    """Train one model, measure it, save it.

    Args:
        config: What to train; `data.train` names a folder of shards.
        run: Run folder to write `config.json`, `checkpoints/` and `metrics.parquet` into; None
            saves nothing.
        report: Called on rank 0 after each evaluation with the metrics by dotted name and the
            newest checkpoint's folder.
        resume_from: Run folder or checkpoint to continue from, to the bit on one CPU worker with
            the same number of threads.

    Returns:
        The metrics of the last epoch.

    Raises:
        ConfigError: For a value that does not fit the data, or a checkpoint of another config.
        DataError: For shards or images that cannot be used.
        Diverged: Where it is past saving, see `facerec.divergence`; on all workers alike.
    """
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    device = _device()
    began = time.perf_counter()

    # Set up.
    shards = Shards(config.data.train) if config.data.train else _no_data()
    split = shards.split("train")
    if split.classes < 2:
        raise DataError(
            f"{shards.place}: holds {split.classes} identities to train on, needs 2 or more"
        )
    torch.manual_seed(config.seed)
    backbone = backbones.build(
        config.backbone.name, config.backbone.args, embedding_size=config.head.embedding_size
    ).to(device)
    try:
        backbones.check_image_size(backbone, *shards.image_size)
    except ValueError as error:
        raise DataError(f"{shards.place}: {error}") from None
    head = in_section(
        "loss",
        lambda: build_head(
            config.loss,
            ClassShard(split.classes, rank, world_size),
            **vars(config.head),
            seed=config.seed,
        ),
    ).to(device)
    if not head.trains_backbone:
        backbone.requires_grad_(False)
        if not config.init_from:
            raise ConfigError(
                f"init_from: {config.loss.name} trains only how sure a finished network is; give "
                "init_from=RUN, the folder of a run with this backbone and these classes"
            )
    optimizer = make_optimizer(config.optimizer, backbone, head)
    sets = protocols.open_sets(shards, config.data.eval_sets, backbone)
    data = config.data
    kept = cached(shards, data.cache, folder=data.cache_dir, device=device)
    probes = geometry.choose(split.labels(), config.seed)
    network: torch.nn.Module = backbone
    if world_size > 1 and head.trains_backbone:
        ids = [device.index] if device.type == "cuda" else None
        network = DistributedDataParallel(backbone, device_ids=ids, broadcast_buffers=False)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=_bf16(config, device))

    # Restore.
    progress = Progress()
    if config.init_from and resume_from is None:
        checkpoint.start_from(Path(config.init_from), backbone, head)
    if resume_from is not None:
        progress = checkpoint.load(checkpoint.find(resume_from), backbone, head, optimizer)
    earlier = progress.seconds
    table = history.History(run, progress.step) if run is not None and rank == 0 else None
    if run is not None and rank == 0:
        run.mkdir(parents=True, exist_ok=True)
        configs.save(config, run / "config.json")

    steps_per_epoch = max(split.rows // config.data.batch_size, 1)
    epoch_images = steps_per_epoch * config.data.batch_size
    total_steps = max(round(config.epochs * steps_per_epoch), 1)
    watch = StepWatch(head.shard, head.centers, run=None if table is None else run)
    metrics: dict[str, float] = table.last() if table is not None else {}
    folder = checkpoint.latest(run) if run is not None else None
    if progress.step >= total_steps and metrics:  # finished before, perhaps not yet reported
        report(metrics, folder)
    while progress.step < total_steps:
        stream = Stream(
            shards,
            batch_size=data.batch_size,
            seed=config.seed,
            epoch=progress.epoch,
            images_seen=progress.images_seen,
            rank=rank,
            world_size=world_size,
            augment=data.augment,
            sampling=data.sampling,
            images_per_identity=data.images_per_identity,
            decoders=data.decoders,
            cache=kept,
        )
        backbone.train(head.trains_backbone)
        head.train()
        sums = {
            name: torch.tensor(value, dtype=torch.float64, device=device)
            for name, value in progress.sums.items()
        }
        tick = time.perf_counter() - progress.train_seconds

        def pause() -> None:
            """Bring what the device and the clock hold into `progress`."""
            progress.sums = {name: float(value) for name, value in sums.items()}  # noqa: B023
            progress.train_seconds = time.perf_counter() - tick  # noqa: B023
            progress.seconds = earlier + time.perf_counter() - began

        for batch in stream:
            # Random numbers of a step (dropout) come from its number: none are left to save.
            torch.manual_seed(_mix(config.seed, progress.step, rank))
            head.progress = progress.step / total_steps
            rate = rate_at(config.optimizer, progress.step, total_steps, config.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_mult"]
            optimizer.zero_grad(set_to_none=True)
            values: dict[str, Tensor] = {}  # of this step
            for part, weight in _parts(batch, config.optimizer.accumulate):
                images, labels = _move(part, config.data.augment, backbone.input_size, device)
                with autocast:
                    embeddings = network(images, views=head.views)
                output = head(embeddings, labels)
                (output.loss * weight).backward()
                shown = {"loss": output.loss}
                shown |= {f"loss.{name}": term for name, term in output.terms.items()}
                shown |= {f"train.{name}": value for name, value in output.stats.items()}
                for name, value in (shown | dict(output.watched)).items():
                    seen = value.detach().double() * weight
                    values[name] = values[name] + seen if name in values else seen
            for name in shown:
                seen = values[name] * config.data.batch_size
                sums[name] = sums[name] + seen if name in sums else seen
            values["gradient_norm"] = clip_gradients(config.optimizer, backbone, head)
            optimizer.step()
            backbone.after_step()
            progress.step += 1
            progress.images_seen += config.data.batch_size
            watch.note(progress.step, rate, values)
            # The last step of an epoch is saved below, when its row is written: never twice.
            if progress.step == total_steps or progress.images_seen == epoch_images:
                break
            every = config.checkpoint.every
            if run is not None and every and progress.step % every == 0:
                pause()
                watch.check()
                folder = checkpoint.save(run, progress, backbone, head, optimizer)

        pause()
        watch.check()
        metrics = row = _row(progress, config, steps_per_epoch)
        done = progress.step == total_steps
        progress.epoch, progress.images_seen, progress.sums = progress.epoch + 1, 0, {}
        progress.train_seconds = 0.0
        if config.eval.geometry:
            centers = head.shard.collect(head.centers)
            if rank == 0:
                row |= geometry.measure(backbone, split, probes, centers, device)
        measured = done or progress.epoch % config.eval.every == 0
        if measured and rank == 0:
            for item in sets:
                row |= item.measure(backbone, device).metrics
        row["seconds"] = progress.seconds = earlier + time.perf_counter() - began
        # The history first: rows beyond the newest checkpoint are dropped when a run resumes.
        if table is not None:
            table.append(row)
        if run is not None:
            folder = checkpoint.save(run, progress, backbone, head, optimizer)
            if done and rank == 0:
                model_card.write(run)
        if measured and rank == 0:
            report(row, folder)
    return metrics


def _no_data() -> Shards:
    raise ConfigError(
        "data.train: names no folder; give data.train=FOLDER of shards, made by "
        "python -m data_prep (try: python -m data_prep synthetic shards/synthetic)"
    )


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    return torch.device("cuda", local if local < torch.cuda.device_count() else 0)


def _bf16(config: TrainConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def _mix(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def _parts(batch: Batch, count: int) -> list[tuple[Batch, float]]:
    """Cut a batch into `count` parts, each with its share of the images."""
    edges = [len(batch.labels) * i // count for i in range(count + 1)]
    parts = []
    for low, high in pairwise(edges):
        if high > low:
            draws = None if batch.draws is None else batch.draws[low:high]
            part = Batch(
                batch.images[low:high], batch.labels[low:high], batch.keys[low:high], draws
            )
            parts.append((part, (high - low) / len(batch.labels)))
    return parts


def _move(batch: Batch, augment: Augment, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Bring a batch to the device: normalised, at the network's size (pixels), augmented."""
    images = torch.as_tensor(batch.images).to(device, non_blocking=True)
    labels = torch.from_numpy(batch.labels).to(device, non_blocking=True)
    x = shrink(normalise(images), size)
    if batch.draws is not None:
        x = augment(x, torch.from_numpy(batch.draws).to(device, non_blocking=True))
    return x, labels


def _row(progress: Progress, config: TrainConfig, steps_per_epoch: int) -> dict[str, float]:
    images = progress.images_seen
    means = {name: value / images for name, value in progress.sums.items()}
    return {
        "epoch": round(progress.step / steps_per_epoch, 6),
        "step": progress.step,
        "images": progress.step * config.data.batch_size,
        **means,
        "images_per_second": images / max(progress.train_seconds, 1e-9),
    }
