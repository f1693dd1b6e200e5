"""Several workers by torchrun: they meet, train as one, and end with one message and one status."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from facerec import checkpoint, launch
from facerec.cli import main
from tests.conftest import SCHEMA, write_toy_shards

ROOT = Path(__file__).parent.parent
LONGEST = 120  # seconds of any run here; one that hangs fails


def command(toy: Path, *words: str) -> list[str]:
    """A training of 4 steps an epoch; each image is read by one of two workers."""
    keys = ["preset=laptop", f"data.train={toy}", "data.batch_size=30", "loss.name=cosface"]
    keys += ["head.sample_rate=0.5", "checkpoint.every=2", "eval.every=100", "eval.geometry=false"]
    return ["-m", "facerec", "train", *keys, *words]


def environment(**more: str) -> dict[str, str]:
    known = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    path = os.pathsep.join([str(ROOT), known.get("PYTHONPATH", "")])
    return known | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path} | more


@contextmanager
def torchrun(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Two workers in `folder`, in a process group of their own, as a shell starts them."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*program, *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ended(words: list[str], folder: Path) -> tuple[int, str, str]:
    with torchrun(words, folder) as process:
        printed, complained = process.communicate(timeout=LONGEST)
        return process.returncode, printed, complained


def said(complained: str) -> list[str]:
    """What the workers said; the one traceback is torchrun's own."""
    lines = complained.splitlines()
    assert sum(line.startswith("Traceback") for line in lines) == 1, complained
    return [line for line in lines if line.startswith(("error:", "interrupted"))]


def by_hand(words: list[str], folder: Path) -> None:
    """Two workers without torchrun."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = [
        subprocess.Popen([sys.executable, *words], cwd=folder, env=environment(RANK=rank, **shared))
        for rank in ("0", "1")
    ]
    try:
        assert [process.wait(LONGEST) for process in running] == [0, 0]
    finally:
        for process in running:
            process.kill()


@pytest.mark.slow
def test_interrupted_and_resumed_workers_train_as_two_by_hand(
    toy_shards: Path, tmp_path: Path
) -> None:
    words = command(toy_shards, "epochs=6")
    with torchrun(words, tmp_path) as process:  # --run is chosen by the first worker
        run = tmp_path / "runs" / "cosface-1"
        until = time.monotonic() + LONGEST
        while checkpoint.latest(run) is None and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        printed, complained = process.communicate(timeout=LONGEST)
    assert process.returncode != 0
    assert printed.count("run: ") == 1
    assert said(complained) == ["interrupted; the same command with the same run=DIR resumes"]
    begun = checkpoint.latest(run)
    assert begun is not None
    assert 0 < int(begun.name) < 24
    again = [*words, f"run={run}"]
    status, printed, complained = ended(again, tmp_path)
    assert status == 0, complained
    assert printed.count("resumes from step") == 1
    by_hand([*words, "--run", "whole"], tmp_path)
    folders = [checkpoint.latest(made) for made in (run, tmp_path / "whole")]
    assert folders[0] is not None
    assert folders[1] is not None
    files = sorted(path.name for path in folders[1].glob("*.safetensors"))
    assert len(files) >= 4
    for file in files:
        whole, resumed = (load_file(folder / file) for folder in folders if folder is not None)
        assert whole.keys() == resumed.keys()
        for name, tensor in whole.items():
            assert tensor.equal(resumed[name]), f"{file}: {name}"


def damaged(folder: Path) -> Path:
    """A set of whose images one, which one of the workers reads, is none."""
    toy = write_toy_shards(folder, val=0)
    path = sorted(toy.glob("train-*.parquet"))[0]
    rows = pq.read_table(path).to_pylist()
    rows[5]["image"] = b"no image"
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)
    return toy


def no_folder(folder: Path) -> Path:
    return folder / "nowhere"


@pytest.mark.slow
@pytest.mark.parametrize(("broken", "words"), [(damaged, "row 5"), (no_folder, "nowhere")])
def test_workers_that_fail_say_so_once(
    broken: Callable[[Path], Path], words: str, tmp_path: Path
) -> None:
    status, printed, complained = ended(command(broken(tmp_path / "toy"), "epochs=1"), tmp_path)
    assert status != 0
    (line,) = said(complained)
    assert line.startswith("error: ")
    assert words in line
    assert complained.count("exitcode: 2") + complained.count("exitcode  : 2") >= 1, complained
    assert "Traceback" not in printed


def test_the_first_to_speak_speaks_for_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "_shared", [dist.HashStore()])  # type: ignore[attr-defined]
    assert launch._end(2, "error: one") == 2
    assert launch._end(1, "error: another") == 2
    assert capsys.readouterr().err == "error: one\n"


def test_the_first_worker_chooses_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.told_by_first("run", lambda: "alone") == "alone"
    monkeypatch.setattr(launch, "_shared", [dist.HashStore()])  # type: ignore[attr-defined]
    monkeypatch.setattr(launch, "is_first", lambda: True)
    assert launch.told_by_first("run", lambda: "runs/a-1") == "runs/a-1"
    monkeypatch.setattr(launch, "is_first", lambda: False)
    assert launch.told_by_first("run", lambda: "runs/a-2") == "runs/a-1"


class Left(BaseException):
    """In place of the end of the process."""


def test_an_incomplete_environment_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(Left) as left:
        main(["train"])
    assert left.value.args == (2,)
    assert "RANK is not set; start with torchrun" in capsys.readouterr().err
