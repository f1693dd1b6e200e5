from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from facerec import checkpoint, checkpoint_files, history
from facerec.config import ConfigError, TrainConfig, override
from facerec.data.shards import DataError
from facerec.train import Diverged, train
from tests.conftest import write_toy_shards


def toy_config(shards: Path, **changes: Any) -> TrainConfig:
    own = {key.replace("__", "."): value for key, value in changes.items()}
    loss = {"loss.name": "cosface", "loss.margin": 0.1, "loss.scale": 16.0}
    return override(
        TrainConfig(),
        {
            "data.train": str(shards),
            "data.batch_size": 20,
            "backbone.name": "tiny",
            "head.embedding_size": 32,
            "optimizer.lr": 0.05,
            "optimizer.schedule": "one_cycle",
            "epochs": 3,
            **({} if "loss.name" in own else loss),
            **own,
        },
    )


def silent(metrics: Mapping[str, float], folder: Path | None) -> None:
    del metrics, folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.find(run)
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_weights(one: Path, two: Path) -> None:
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    clock = ("seconds", "images_per_second", "possible_images_per_second", "bound")
    return [{k: v for k, v in row.items() if not k.startswith(clock)} for row in rows]


def test_it_learns_and_reports(toy_shards: Path, toy_pairs: Path, tmp_path: Path) -> None:
    reports: list[tuple[dict[str, float], Path | None]] = []
    last = train(
        toy_config(toy_shards, epochs=8, data__eval=str(toy_pairs)),
        run=tmp_path / "run",
        report=lambda metrics, folder: reports.append((dict(metrics), folder)),
    )
    assert [metrics["epoch"] for metrics, _ in reports] == list(range(1, 9))
    assert last == reports[-1][0]
    assert last["step"] == 48
    assert last["images"] == 960
    assert last["loss"] < reports[0][0]["loss"] / 2
    assert last["train.accuracy"] > 0.8
    assert any(name.startswith("loss.") for name in last)
    assert last["pairs.accuracy"] > 0.6
    assert reports[-1][1] == tmp_path / "run/checkpoints/00000048"
    assert [row["epoch"] for row in history.read(tmp_path / "run")] == list(range(1, 9))
    assert [f.name for f in (tmp_path / "run/checkpoints").iterdir()] == ["00000048"]


def test_the_same_seed_gives_the_same_model_and_another_does_not(
    toy_shards: Path, tmp_path: Path
) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        train(toy_config(toy_shards, epochs=1, seed=seed), run=tmp_path / name, report=silent)
    assert_same_weights(tmp_path / "one", tmp_path / "two")
    one, three = weights(tmp_path / "one"), weights(tmp_path / "three")
    assert not all(torch.equal(tensor, three[name]) for name, tensor in one.items())


STATEFUL = {  # running means, drawn margins, memories, a queue, two views: all of it is saved
    "adaface": {"loss.regularizer": "sample_to_sample", "head.queue_size": 50},
    "elasticface": {"loss.regularizer": "uniform", "loss.beta": 0.001, "head.sample_rate": 0.5},
    "contraface": {"backbone.view_dropout": 0.5, "loss.regularizer_start": 0.5},
}


@pytest.mark.parametrize(
    ("loss", "stop"),
    [
        ("adaface", 11),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                *(("uniface", 4), ("uniface", 6), ("uniface", 9), ("uniface", 17), ("softmax", 6)),
                *(("contraface", 11), ("elasticface", 11)),
            )
        ),
    ],
)
def test_an_interrupted_run_resumes_to_the_bit(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, loss: str
) -> None:
    changes = {"checkpoint.every": 1, "data.augment.rotate": 0.1, **STATEFUL.get(loss, {})}
    config = toy_config(toy_shards, loss__name=loss, **changes)
    train(config, run=tmp_path / "whole", report=silent)

    class Killed(Exception):
        pass

    save = checkpoint.Saver.save

    def save_and_die(self: Any, progress: checkpoint.Progress, **more: Any) -> Path:
        folder = save(self, progress, **more)
        if progress.step == stop:
            raise Killed
        return folder

    monkeypatch.setattr(checkpoint.Saver, "save", save_and_die)
    with pytest.raises(Killed):
        train(config, run=tmp_path / "cut", report=silent)
    monkeypatch.setattr(checkpoint.Saver, "save", save)
    train(config, run=tmp_path / "cut", report=silent, resume_from=tmp_path / "cut")

    assert_same_weights(tmp_path / "whole", tmp_path / "cut")
    whole, cut = history.read(tmp_path / "whole"), history.read(tmp_path / "cut")
    assert without_clock(whole) == without_clock(cut)


@pytest.mark.parametrize("every", [0, 1, 3])
def test_an_epoch_that_was_written_before_the_end_is_not_written_again(
    toy_shards: Path, tmp_path: Path, every: int
) -> None:
    config = toy_config(toy_shards, epochs=2, checkpoint__every=every)

    def stop(metrics: Mapping[str, float], folder: Path | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, run=tmp_path, report=stop)
    train(config, run=tmp_path, report=silent, resume_from=tmp_path)
    assert [row["step"] for row in history.read(tmp_path)] == [6, 12]


def test_a_finished_run_is_reported_again_and_not_trained(toy_shards: Path, tmp_path: Path) -> None:
    config = toy_config(toy_shards, epochs=1)
    first = train(config, run=tmp_path / "run", report=silent)
    reports: list[dict[str, float]] = []
    again = train(
        config,
        run=tmp_path / "run",
        report=lambda metrics, _: reports.append(dict(metrics)),
        resume_from=tmp_path / "run",
    )
    assert again == first
    assert reports == [first]


def test_accumulation_sees_every_image_and_evaluation_keeps_its_rhythm(
    toy_shards: Path, tmp_path: Path
) -> None:
    reports: list[float] = []
    config = toy_config(toy_shards, epochs=2.5, eval__every=2, optimizer__accumulate=3)
    train(config, run=tmp_path, report=lambda metrics, _: reports.append(metrics["epoch"]))
    assert reports == [2.0, 2.5]
    rows = history.read(tmp_path)
    assert [row["images"] for row in rows] == [120, 240, 300]
    assert all(0 <= (row["train.accuracy"] or 0) <= 1 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_both_optimizers_resume(toy_shards: Path, tmp_path: Path, name: str) -> None:
    config = toy_config(toy_shards, optimizer__name=name, optimizer__lr=0.001, epochs=2)
    train(config, run=tmp_path / "whole", report=silent)
    half = override(config, {"epochs": 2})
    seen: list[int] = []

    def stop(metrics: Mapping[str, float], folder: Path | None) -> None:
        seen.append(int(metrics["step"]))
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(half, run=tmp_path / "cut", report=stop)
    train(half, run=tmp_path / "cut", report=stop, resume_from=tmp_path / "cut")
    assert seen == [6, 12]
    assert_same_weights(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.slow
def test_bf16_autocast_trains(toy_shards: Path) -> None:
    metrics = train(toy_config(toy_shards, epochs=1, precision="bf16"), report=silent)
    assert math.isfinite(metrics["loss"])


def test_divergence_is_typed(toy_shards: Path) -> None:
    config = toy_config(
        toy_shards,
        loss__name="softmax",
        optimizer__lr=100.0,
        optimizer__clip_norm=0.0,
        optimizer__schedule="step",
        optimizer__momentum=0.99,
        epochs=10,
    )
    with pytest.raises(Diverged) as caught:
        train(config, report=silent)
    assert caught.value.reason in ("nan_loss", "inf_gradient", "exploding_centers")
    assert caught.value.step <= 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__train": ""}, "data.train"),
        ({"data__train": "/nowhere"}, "/nowhere"),
        ({"data__batch_size": 512}, "120 images"),
        ({"backbone__name": "iresnet18"}, "64 x 64"),
        ({"data__eval": "/nowhere/lfw"}, "/nowhere/lfw"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(
    toy_shards: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=words):
        train(toy_config(toy_shards, **changes), report=silent)


def test_a_checkpoint_of_another_loss_or_class_count_is_refused(
    toy_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(toy_config(toy_shards, epochs=1), run=tmp_path / "run", report=silent)
    config = toy_config(toy_shards, loss__name="uniface")
    with pytest.raises(ConfigError, match="tensor"):
        train(config, report=silent, resume_from=tmp_path / "run")
    config = toy_config(toy_shards, head__embedding_size=16)
    with pytest.raises(ConfigError, match="expected"):
        train(config, report=silent, resume_from=tmp_path / "run")
    other = write_toy_shards(tmp_path / "other", identities=9, val=0)
    with pytest.raises(ConfigError, match="12 classes, the data has 9"):
        train(toy_config(other), report=silent, resume_from=tmp_path / "run")
    # To start from it is another matter.
    train(toy_config(other, epochs=1 / 4, init_from=str(tmp_path / "run")), report=silent)
    assert f"9 of 9 identities have a center in {tmp_path}/run, 0" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_one_clear_line(toy_shards: Path, tmp_path: Path) -> None:
    config = toy_config(toy_shards, epochs=1)
    train(config, run=tmp_path, report=silent)
    file = checkpoint.find(tmp_path) / "backbone.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="not a whole checkpoint file"):
        train(config, report=silent, resume_from=tmp_path)


def _worker(rank: int, world_size: int, folder: str, config: TrainConfig, resume: bool) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous{resume}", rank=rank, world_size=world_size
    )
    run = Path(folder) / "run"
    train(config, run=run, report=silent, resume_from=run if resume else None)
    dist.barrier()  # gloo aborts now and then where one leaves long before the other
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_workers_train_one_model_and_one_worker_goes_on(
    toy_shards: Path, tmp_path: Path
) -> None:
    config = toy_config(toy_shards, loss__name="uniface_bce", epochs=2)
    mp.spawn(_worker, args=(2, str(tmp_path), override(config, {"epochs": 1}), False), nprocs=2)
    saved = checkpoint_files.read_state(checkpoint.find(tmp_path / "run"))
    assert saved.pieces == ((0, 6), (6, 12))
    centers = checkpoint_files.class_rows(saved, checkpoint_files.HEAD_PART, "centers", 0, 12)
    assert centers.shape == (12, 32)
    assert torch.isfinite(centers).all()
    assert len(np.unique(centers.numpy(), axis=0)) == 12
    metrics = train(config, run=tmp_path / "run", report=silent, resume_from=tmp_path / "run")
    assert metrics["epoch"] == 2
    rows = history.read(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (rows[1]["loss"] or 99) < (rows[0]["loss"] or 0)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.1, 0.01])
def test_moved_centers_train_or_end_typed(toy_shards: Path, beta: float) -> None:
    """The published code turns to NaN with these."""
    config = toy_config(toy_shards, loss__name="uniformface", loss__beta=beta, epochs=50 / 6)
    last, ended = {"step": 0.0, "loss": math.nan}, 51
    try:
        last = train(config, report=silent)
    except Diverged as error:
        ended = error.step
    assert ended <= 50 or (last["step"] == 50 and math.isfinite(last["loss"]))


def test_scf_leaves_the_network_as_it_is(toy_shards: Path, tmp_path: Path) -> None:
    train(toy_config(toy_shards, epochs=1), run=tmp_path / "first", report=silent)
    config = toy_config(toy_shards, loss__name="scf", epochs=2, init_from=str(tmp_path / "first"))
    last = train(config, run=tmp_path / "second", report=silent)
    assert last["train.confidence"] > 0
    first, second = weights(tmp_path / "first"), weights(tmp_path / "second")
    kept = [name for name in first if name.startswith("backbone") or name.endswith(":centers")]
    assert all(torch.equal(first[n], second[n]) for n in kept if "optimizer" not in n)
    with pytest.raises(ConfigError, match=r"init_from: scf trains only .* give init_from=RUN"):
        train(override(config, {"init_from": ""}), report=silent)


def test_a_training_starts_from_another(toy_shards: Path, tmp_path: Path) -> None:
    train(toy_config(toy_shards, epochs=1), run=tmp_path / "first", report=silent)
    again = toy_config(toy_shards, loss__name="arcface", init_from=str(tmp_path / "first"))
    warm = train(override(again, {"epochs": 1 / 6, "optimizer.lr": 1e-9}), report=silent)
    cold = train(override(again, {"epochs": 1 / 6, "init_from": ""}), report=silent)
    assert warm["train.target_cos"] > cold["train.target_cos"] + 0.05
    with pytest.raises(ConfigError, match="no such run folder"):
        train(override(again, {"init_from": str(tmp_path / "none")}), report=silent)
