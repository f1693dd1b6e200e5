"""The training loop: one function, read from top to bottom.

It knows no Ray and no launcher: where a process group is initialised (Ray Train, torchrun) it
trains with all workers, otherwise alone. What leaves it are reports and checkpoints.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from facerec import backbones, checkpoint, history, model_card, pages
from facerec import config as configs
from facerec.checkpoint import Progress
from facerec.config import ConfigError, TrainConfig
from facerec.data.cache import cached
from facerec.data.feed import feed
from facerec.data.identities import identities
from facerec.data.shards import DataError, Shards
from facerec.data.stream import Stream
from facerec.determinism import deterministic
from facerec.divergence import Diverged, StepWatch
from facerec.evaluation import geometry, protocols
from facerec.head import build_head
from facerec.optimizer import make_optimizer, rate_at
from facerec.parallel import ClassShard
from facerec.planning import cost
from facerec.planning import meter as meters
from facerec.precision import compute_dtype
from facerec.start_from import start_from
from facerec.step import Sums, TrainingStep
from facerec.tree import in_section

__all__ = ["Diverged", "Report", "log_report", "train"]

Report = Callable[[Mapping[str, float], Path | None], None]


def log_report(metrics: Mapping[str, float], folder: Path | None) -> None:
    """Print one line per report."""
    shown = [f"epoch {metrics['epoch']:g}", f"loss {metrics['loss']:.3f}"]
    shown += [f"{k} {v:.4f}" for k, v in metrics.items() if k.endswith((".tar", ".accuracy"))]
    shown += [f"{metrics['images_per_second']:.0f} images/s", meters.said(metrics)]
    print("  ".join(filter(None, shown)), flush=True)


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
            newest checkpoint's folder, whole by then.
        resume_from: Run folder (its newest whole checkpoint) or checkpoint to continue from; to the
            bit with as many workers and threads, on accelerators with `deterministic`.

    Returns:
        The metrics of the last epoch.

    Raises:
        ConfigError: For a value that does not fit the data, or a checkpoint of another config.
        DataError: For shards or images that cannot be used.
        Diverged: Where it is past saving, see `facerec.divergence`; on all workers alike.
    """
    device = _device()
    with ExitStack() as ending:
        ending.enter_context(deterministic(config.deterministic, device))
        ending.enter_context(pages.kept(device))
        return _train(config, run, report, resume_from, device, ending)


def _train(
    config: TrainConfig,
    run: Path | None,
    report: Report,
    resume_from: Path | None,
    device: torch.device,
    ending: ExitStack,
) -> dict[str, float]:
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
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
    net = cost.count(backbone)
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
    step = TrainingStep(config, backbone, head, optimizer, device)

    # Restore.
    progress, folder = Progress(), None
    # What else has a state that is saved.
    parts: dict[str, checkpoint.Part] = {"scaler": step.scaler} if step.scaler else {}
    people = identities(split, shards.index) if run is not None or config.init_from else None
    if resume_from is not None:
        folder = checkpoint.find_whole(resume_from, head)
        progress = checkpoint.load(folder, backbone, head, optimizer, parts)
        if rank == 0:
            print(f"resumes from step {progress.step}", flush=True)
    elif config.init_from:
        said = start_from(Path(config.init_from), backbone, head, people)
        if rank == 0:
            print(said, flush=True)
    saver, table = None, None
    if run is not None:
        saver = ending.enter_context(
            checkpoint.Saver(run, backbone, head, optimizer, parts=parts, identities=people)
        )
        if rank == 0:
            table = history.History(run, progress.step)
            configs.save(config, run / "config.json")
    metrics: dict[str, float] = table.last() if table is not None else {}
    if progress.ended and checkpoint.add_up(head, int(metrics.get("step") == progress.step)):
        progress.close()  # it was measured, too, before the interruption
        progress.seconds = metrics.get("seconds", progress.seconds)
    earlier = progress.seconds

    steps_per_epoch = max(split.rows // config.data.batch_size, 1)
    epoch_images = steps_per_epoch * config.data.batch_size
    total_steps = max(round(config.epochs * steps_per_epoch), 1)
    watch = StepWatch(head.shard, head.centers, run=None if table is None else run)
    dtype = compute_dtype(config.precision, device)
    meter = meters.meter(config, net, classes=split.classes, device=device, dtype=dtype)
    if progress.step >= total_steps and not progress.ended and rank == 0:
        print(f"finished at step {progress.step}: nothing is left to train", flush=True)
        if metrics:  # perhaps not yet reported
            report(metrics, folder)
    while progress.step < total_steps or progress.ended:
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
        sums = Sums(progress.sums, device)
        tick = time.perf_counter() - progress.train_seconds

        def pause() -> None:
            """Bring what the device and the clock hold into `progress`."""
            progress.sums = sums.read()  # noqa: B023
            progress.train_seconds = time.perf_counter() - tick  # noqa: B023
            progress.seconds = earlier + time.perf_counter() - began

        for batch in meter.waiting(() if progress.ended else feed(stream, device)):
            head.progress = progress.step / total_steps
            rate = rate_at(config.optimizer, progress.step, total_steps, config.epochs)
            measured = step(batch, _mix(config.seed, progress.step, rank), rate)
            sums.add(measured.shown, config.data.batch_size)
            progress.step += 1
            progress.images_seen += config.data.batch_size
            watch.note(progress.step, rate, measured.shown | measured.watched)
            # The last step of an epoch is saved below, when its row is written: never twice.
            if progress.step == total_steps or progress.images_seen == epoch_images:
                break
            every = config.checkpoint.every
            if saver is not None and every and progress.step % every == 0:
                pause()
                watch.check()
                folder = saver.save(progress)

        pause()
        watch.check()
        done = progress.step == total_steps
        if not progress.ended:
            progress.epoch, progress.ended = progress.epoch + 1, True
            if saver is not None:  # it is written while the epoch is measured
                folder = saver.save(progress, last=done)
        metrics = row = _row(progress, config, steps_per_epoch)
        row |= meter.row(row["images_per_second"])
        if config.eval.geometry:
            centers = head.shard.collect(head.centers)
            if rank == 0:
                row |= geometry.measure(backbone, split, probes, centers, device)
        reported = done or progress.epoch % config.eval.every == 0
        if reported and rank == 0:
            for item in sets:
                row |= item.measure(backbone, device).metrics
        row["seconds"] = progress.seconds = earlier + time.perf_counter() - began
        # When a run resumes, rows beyond its checkpoint are dropped, and a row that is not there
        # yet is measured.
        if table is not None:
            table.append(row | {meters.BOUND_BY: meters.bound_by(row)})
        progress.close()
        if saver is not None and reported:  # whoever is told of an epoch finds its weights
            saver.wait()
            if done and rank == 0 and run is not None:
                model_card.write(run)
        if reported and rank == 0:
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


def _mix(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


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
