"""Checkpoints: their files, what is done about a damaged one, the thread that writes them."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from facerec import checkpoint, checkpoint_writer, start_from
from facerec import checkpoint_files as files
from facerec.checkpoint import Damaged, Progress, Saver
from facerec.checkpoint_state import named_parameters
from facerec.cli import main
from facerec.config import Component, ConfigError
from facerec.data.identities import Identities, identities
from facerec.data.shards import Shards
from facerec.determinism import deterministic
from facerec.divergence import StepWatch
from facerec.head import Head, build_head
from facerec.parallel import ClassShard
from facerec.train import train
from tests.test_train import silent, toy_config

CLASSES, SIZE = 7, 4


class Small:
    """A training that has made one step, without data: a backbone, a head, momentum."""

    def __init__(self, shard: ClassShard | None = None, *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.backbone: Any = nn.Linear(3, SIZE)
        loss = Component("uniface_bce", {"regularizer": "sample_to_sample"})
        self.head: Head = build_head(loss, shard or ClassShard(CLASSES), SIZE, seed=seed)
        self.optimizer = torch.optim.SGD(
            [*self.backbone.parameters(), *self.head.parameters()], lr=0.1, momentum=0.9
        )

    def step(self, labels: tuple[int, ...] = (0, 3, 6)) -> None:
        loss = self.head(self.backbone(torch.randn(len(labels), 3)), torch.tensor(labels)).loss
        loss.backward()
        self.optimizer.step()

    def saver(self, run: Path, **more: Any) -> Saver:
        return Saver(run, self.backbone, self.head, self.optimizer, **more)

    def load(self, folder: Path, **more: Any) -> Progress:
        return checkpoint.load(folder, self.backbone, self.head, self.optimizer, **more)


def saved(run: Path, *steps: int, last: bool = False) -> Small:
    small = Small()
    with small.saver(run) as saver:
        for step in steps:
            small.step()
            saver.save(Progress(step=step), last=last and step == steps[-1])
    return small


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_any_worker_of_any_number_finds_its_classes(tmp_path: Path) -> None:
    before = saved(tmp_path, 5)
    folder = checkpoint.find_whole(tmp_path, before.head)
    state = files.read_state(folder)
    axis = before.head.class_axis
    assert {"centers", "bias"} < axis
    assert axis == set(files.class_names(state, files.HEAD_PART))
    for start in range(CLASSES + 1):
        for stop in range(start, CLASSES + 1):
            for name in axis:
                rows = files.class_rows(state, files.HEAD_PART, name, start, stop)
                assert torch.equal(rows, before.head.state_dict()[name][start:stop])
    for workers in (1, 2, 3, 9):  # two of nine hold nothing
        for rank in range(workers):
            after = Small(ClassShard(CLASSES, rank, workers), seed=1)
            assert after.load(folder) == Progress(step=5)
            shard = after.head.shard
            for name, tensor in after.head.state_dict().items():
                whole = before.head.state_dict()[name]
                cut = whole[shard.start : shard.stop] if name in axis else whole
                assert torch.equal(tensor, cut), name
            old = dict(named_parameters(before.backbone, before.head))
            for name, parameter in named_parameters(after.backbone, after.head):
                kept = before.optimizer.state[old[name]]["momentum_buffer"]
                if name.removeprefix("head.") in axis:
                    kept = kept[shard.start : shard.stop]
                assert torch.equal(after.optimizer.state[parameter]["momentum_buffer"], kept)


def test_a_range_without_state_is_zero_and_an_unknown_tensor_refused(tmp_path: Path) -> None:
    """A worker whose classes no batch has met yet has no momentum."""
    pieces = {(0, 2): torch.ones(2, 3), (2, 2): torch.ones(0, 3), (2, 5): None}
    for (start, stop), rows in pieces.items():
        tensors = {} if rows is None else {"centers|momentum": rows}
        files.write_tensors(tmp_path / files.piece_files(start, stop)[1], tensors)
    state = files.Saved(tmp_path, Progress(), 5, tuple(pieces), {}, {}, "")
    rows = files.class_rows(state, files.OPTIMIZER_PART, "centers|momentum", 1, 4)
    assert rows.tolist() == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(ConfigError, match="lacks tensor other"):
        files.class_rows(state, files.OPTIMIZER_PART, "other", 1, 4)


def truncate(folder: Path) -> str:
    os.truncate(folder / "optimizer-0-7.safetensors", 100)
    return "optimizer-0-7.safetensors: not a whole checkpoint file (100 bytes, it was written with"


def change_a_byte(folder: Path) -> str:
    path = folder / "head-0-7.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return "head-0-7.safetensors: not a whole checkpoint file (its SHA-256 is another"


def remove(folder: Path) -> str:
    (folder / "backbone.safetensors").unlink()
    return "backbone.safetensors: not a whole checkpoint file (No such file"


def tear_state(folder: Path) -> str:
    path = folder / "state.json"
    path.write_bytes(path.read_bytes()[:50])
    return "state.json: not a whole checkpoint file (JSONDecodeError"


def lose_a_piece(folder: Path) -> str:
    path = folder / "state.json"
    path.write_text(path.read_text().replace('"classes": 7', '"classes": 8'))
    return "state.json: lists pieces that are not its 8 classes"


@pytest.mark.parametrize("harm", [truncate, change_a_byte, remove, tear_state, lose_a_piece])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Callable[[Path], str]
) -> None:
    small = saved(tmp_path, 3, 6)
    place = tmp_path / "checkpoints"
    said = harm(place / "00000006")
    assert checkpoint.find_whole(tmp_path, small.head) == place / "00000003"
    warning = capsys.readouterr().err
    assert warning.startswith(f"warning: {place / '00000006'}/{said}")
    assert warning.count("\n") == 1
    with pytest.raises(Damaged):  # it was asked for by name
        checkpoint.find_whole(place / "00000006", small.head)
    harm(place / "00000003")
    with pytest.raises(Damaged, match=r"00000003/.* no whole checkpoint is left in .*: delete it"):
        checkpoint.find_whole(tmp_path, small.head)


def test_a_checkpoint_of_another_version_is_refused(tmp_path: Path) -> None:
    small = saved(tmp_path, 3)
    path = tmp_path / "checkpoints/00000003/state.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(ConfigError, match="checkpoint of version 1, this program goes on from"):
        checkpoint.find_whole(tmp_path, small.head)


def test_the_newest_two_stay_and_one_where_the_training_is_over(tmp_path: Path) -> None:
    saved(tmp_path, 2, 4, 6)
    assert names(tmp_path) == ["00000004", "00000006"]
    place = tmp_path / "checkpoints"
    (place / ".00000008.1f").mkdir()  # of an attempt that was killed
    saved(tmp_path, 5)  # from before 6, which was damaged: it is not to be found again
    assert names(tmp_path) == ["00000004", "00000005"]
    os.truncate(place / "00000005/state.json", 10)
    small = saved(tmp_path, 5)
    assert checkpoint.find_whole(tmp_path, small.head).name == "00000005"
    saved(tmp_path, 7, 9, last=True)
    assert names(tmp_path) == ["00000009"]


class Scale:
    """A part with a state, as a gradient scaler is one."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "since": 3}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["since"] == 3
        self.scale = state["scale"]


def test_the_state_of_further_parts_comes_back(tmp_path: Path) -> None:
    small = Small()
    progress = Progress(1, 40, 8, 0.1 + 0.2, 0.7, {"loss": 1 / 3, "nan": float("inf")}, True)
    with small.saver(tmp_path, parts={"scaler": Scale(65536.1)}) as saver:
        folder = saver.save(progress)
    scale = Scale(1.0)
    assert small.load(folder, parts={"scaler": scale}) == progress
    assert scale.scale == 65536.1
    with pytest.raises(ConfigError, match="lacks the state of other"):
        small.load(folder, parts={"other": scale})


def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Lets no file of a checkpoint be written before the event."""
    go, write = threading.Event(), files.write_tensors

    def write_late(*args: Any) -> None:
        assert go.wait(60), "nothing went on while a checkpoint was being written"
        write(*args)

    monkeypatch.setattr(files, "write_tensors", write_late)
    return go


def test_what_is_saved_is_of_the_moment_of_saving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, go = Small(), held(monkeypatch)
    small.step()
    before = {name: t.clone() for name, t in small.head.state_dict().items()}
    momentum = small.optimizer.state[small.head.centers]["momentum_buffer"].clone()
    with small.saver(tmp_path) as saver:
        folder = saver.save(Progress(step=1))
        small.step()
        assert not folder.exists()
        go.set()
    assert not torch.equal(small.head.centers, before["centers"])
    small.load(folder)
    assert all(torch.equal(t, before[name]) for name, t in small.head.state_dict().items())
    assert torch.equal(small.optimizer.state[small.head.centers]["momentum_buffer"], momentum)


def test_steps_go_on_while_a_checkpoint_is_written(
    toy_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, note, last = held(monkeypatch), StepWatch.note, tmp_path / "checkpoints/00000002"

    def note_and_release(self: StepWatch, step: int, *rest: Any) -> None:
        note(self, step, *rest)
        if step == 3:
            assert not last.exists()
            go.set()

    monkeypatch.setattr(StepWatch, "note", note_and_release)
    config = toy_config(toy_shards, epochs=4 / 6, checkpoint__every=2, eval__geometry=False)
    train(config, run=tmp_path, report=silent)
    assert checkpoint.latest(tmp_path) == tmp_path / "checkpoints/00000004"


def test_a_full_disk_ends_the_training_in_one_line(
    toy_shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_file = files.save_file

    def save_to_full(tensors: Any, path: Path) -> None:
        if "00000002" in str(path) and path.name == "backbone.safetensors":
            raise SafetensorError(f"I/O error: No space left (os error 28) at path {path}")
        save_file(tensors, path)

    monkeypatch.setattr(files, "save_file", save_to_full)
    words = [f"data.train={toy_shards}", "data.batch_size=20", "backbone.name=tiny", "epochs=1"]
    words += ["head.embedding_size=8", "checkpoint.every=1"]
    assert main(["train", *words, "--run", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}/checkpoints/.00000002")
    assert error.endswith(f"/backbone.safetensors: {os.strerror(errno.ENOSPC)}\n")
    assert error.count("\n") == 1
    assert names(tmp_path) == ["00000001"]  # nothing half-written takes room
    monkeypatch.undo()
    (tmp_path / "checkpoints/00000001/backbone.safetensors").unlink()
    assert main(["train", "--run", str(tmp_path)]) == 2  # never a silent new start
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"no whole checkpoint is left in {tmp_path}: delete it to begin anew" in error
    with pytest.raises(FileNotFoundError):  # as safetensors itself says it
        files.write_tensors(tmp_path / "none/backbone.safetensors", {"a": torch.ones(1)})


def test_a_worker_that_writes_nothing_is_waited_for_no_longer_than_it_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "LONGEST_WAIT", 0.05)
    small = Small(ClassShard(CLASSES, 0, 2))
    with (
        pytest.raises(OSError, match="worker 1 wrote no part"),
        small.saver(tmp_path) as saver,
    ):
        saver.save(Progress(step=1))
    assert names(tmp_path) == []


def test_a_worker_that_cannot_write_does_not_let_the_first_one_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Small(ClassShard(CLASSES, 0, 2)).saver(tmp_path)
    (tmp_path / "checkpoints/.0").mkdir()
    second = Small(ClassShard(CLASSES, 1, 2)).saver(tmp_path)
    second._token = first._token  # as a process group would have told it
    write = files.write_tensors

    def refuse(path: Path, tensors: Any) -> None:
        if path.name == "head-4-7.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, tensors)

    monkeypatch.setattr(files, "write_tensors", refuse)
    for saver in (first, second):
        saver.save(Progress(step=1))
    with pytest.raises(OSError, match="No space left on device"):
        second.wait()
    with pytest.raises(OSError, match="worker 1 could not write its part"):
        first.wait()
    assert checkpoint.latest(tmp_path) is None


def test_the_error_of_the_training_is_the_one_that_goes_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_writer, "GRACE", 0.05)
    small = Small(ClassShard(CLASSES, 0, 2))

    def interrupted() -> None:
        with small.saver(tmp_path) as saver:
            saver.save(Progress(step=1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == []


def people(*names: str | None, source: str = "") -> Identities:
    return Identities(pa.array(names, pa.string()), source)


def test_names_are_read_by_label(toy_shards: Path) -> None:
    shards = Shards(toy_shards)
    found = identities(shards.split("val"), shards.index)
    assert found is not None
    columns = shards.split("val").columns(["label", "identity"])
    expected = dict(zip(columns["label"], columns["identity"], strict=True))
    assert found.names.to_pylist() == [expected[label] for label in range(20)]


def test_whom_two_sets_share() -> None:
    one = people("Ann", "Bob", None, "Cleo")
    assert one.places(people("Cleo", None, "Ann")).tolist() == [2, -1, -1, 0]
    assert one.places(people("Cleo", "Ann", source="b")).tolist() == [1, -1, -1, 0]
    numbers = people("0", "1", source="a")
    assert numbers.places(people("1", "0", source="a")).tolist() == [1, 0]
    assert numbers.places(people("1", "0")).tolist() == [1, 0]
    assert numbers.places(people("1", "0", source="b")).tolist() == [-1, -1]  # other people


def test_centers_go_along_by_name(tmp_path: Path) -> None:
    before = Small()
    with before.saver(tmp_path, identities=people(*"abcdefg")) as saver:
        saver.save(Progress(step=1))
    now = people("new", "g", "a", "other", "c")
    for rank in range(2):
        after = Small(ClassShard(5, rank, 2), seed=1)
        fresh = after.head.centers.detach().clone()
        if rank:  # no process group tells it what the first worker found
            folder = tmp_path / "checkpoints/00000001"
            monkey = pytest.MonkeyPatch()
            monkey.setattr(checkpoint, "find_whole", lambda path, head: folder)  # noqa: B023
            said = start_from.start_from(tmp_path, after.backbone, after.head, now)
            monkey.undo()
        else:
            said = start_from.start_from(tmp_path, after.backbone, after.head, now)
        assert said == (f"init_from: 3 of 5 identities have a center in {tmp_path}, 2 start fresh")
        assert torch.equal(after.backbone.weight, before.backbone.weight)
        old = before.head.centers
        expected = [[fresh[0], old[6], old[0]], [fresh[0], old[2]]][rank]
        assert torch.equal(after.head.centers, torch.stack(expected))
    unnamed = Small(ClassShard(5))
    with pytest.raises(ConfigError, match="has 7 classes, the data has 5, and not both sets name"):
        start_from.start_from(tmp_path, unnamed.backbone, unnamed.head, None)
    scf = build_head(Component("scf"), ClassShard(5), SIZE)
    with pytest.raises(ConfigError, match=r"3 of 5 identities .* this loss trains no centers"):
        start_from.start_from(tmp_path, before.backbone, scf, now)


def test_determinism_is_switched_on_for_accelerators_alone() -> None:
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
    assert before[0] is False
    with deterministic(True, torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
    monkey = pytest.MonkeyPatch()
    monkey.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(True, torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert cudnn.deterministic
        assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    monkey.undo()
    now = (torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark)
    assert now == before


def test_a_half_deleted_checkpoint_is_never_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of a deletion leaves nothing that passes for a checkpoint."""
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **keywords: None)
    saved(tmp_path, 1, 2, 3)
    assert [name for name in names(tmp_path) if name[0] != "."] == ["00000002", "00000003"]
    monkeypatch.undo()
    saved(tmp_path, 4)
    assert names(tmp_path) == ["00000003", "00000004"]
