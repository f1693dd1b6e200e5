"""Preparing is killed, runs out of disk, and meets more images than fit into memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from facerec.data.shards import Shards
from tests.data_prep.sources import jpeg, payload, people, record, write_folder, write_records

HERE = Path(__file__).parents[2]
# One process that imports everything, and children of it that are killed.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from data_prep.cuts import Options
from data_prep.prepare import prepare
from data_prep.recordio import Recordio
from facerec.data.shards import DataError, Shards
from tests.data_prep.sources import Silent

source, root = map(Path, sys.argv[1:])

def run(folder):
    options = Options(skip_errors=True)
    prepare(Recordio(source), folder, options, said={}, tell=Silent(), shard_rows=20)

def child(folder, seconds):
    pid = os.fork()
    if pid == 0:
        try:
            run(folder)
            os._exit(0)
        finally:
            os._exit(1)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]

def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}

start = time.perf_counter()
pid = os.fork()  # the children's parent has no threads
if pid == 0:
    run(root / "whole")
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
took = time.perf_counter() - start
whole = content(root / "whole")
moments = random.Random(1)
killed = 0
for round in range(5):
    folder = root / f"killed-{round}"
    for _ in range(8):
        status = child(folder, moments.uniform(0, took))
        killed += status == signal.SIGKILL
        there = content(folder)
        for name, data in there.items():
            if not name.endswith(".part") and name != "preparing.json":
                assert data == whole[name], name
        if "index.json" in there:
            Shards(folder)
            continue
        try:
            Shards(folder)
        except DataError as error:
            assert "half-written" in str(error) or "no such folder" in str(error)
        else:
            raise AssertionError("a half-written set looks whole")
    pid = os.fork()
    if pid == 0:
        run(folder)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert content(folder) == whole
print(killed)
"""


def damaged_records(folder: Path) -> Path:
    """400 images of 50 people; every 37th is damaged."""
    images = people(50, 8)
    records = {
        key: payload(float(label), image[: -30 if key % 37 == 0 else None], number=key)
        for key, (label, image) in enumerate(images)
    }
    return write_records(folder, records)


@pytest.mark.slow
def test_killed_at_any_instant(tmp_path: Path) -> None:
    source = damaged_records(tmp_path / "src")
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(source), str(tmp_path)],
        cwd=HERE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A disk in memory of the size that it is called with; called again, it grows."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = False

    def disk(size: str) -> Path:
        nonlocal mounted
        how = f"remount,size={size}" if mounted else f"size={size}"
        try:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", how, "tmpfs", str(path)],
                check=True,
                capture_output=True,
            )
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("this user may not mount a small disk")
        mounted = True
        return path

    yield disk
    if mounted:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["folder", "parquet"])
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    kind: str,
    tmp_path: Path,
    small_disk: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    comment = b"\xff\xfe\xff\xff" + bytes(0xFFFD)
    images = [image[:2] + comment + image[2:] for image in (jpeg(n) for n in range(60))]
    if kind == "folder":
        source = write_folder(tmp_path / "src", ["a", "b"], 30)
        for path, image in zip(sorted(source.rglob("*.jpg")), images, strict=True):
            path.write_bytes(image)
    else:
        source = tmp_path / "src.parquet"
        pq.write_table(pa.table({"image": images, "label": [0, 1] * 30}), source)
    disk = small_disk("2m")
    command = [kind, str(source), str(disk / "dst")]
    assert main(command) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith(f"error: {disk / 'dst'}")
    assert err.endswith(": No space left on device")
    left = {path.name for path in (disk / "dst").iterdir()} if (disk / "dst").exists() else set()
    assert left <= {"preparing.json"}
    small_disk("32m")
    assert main(command) == 0
    assert Shards(disk / "dst").split().rows == 60
    assert main([kind, str(source), str(tmp_path / "dst")]) == 0
    for path in (tmp_path / "dst").iterdir():
        assert (disk / "dst" / path.name).read_bytes() == path.read_bytes()


MEASURE = """
import sys
from data_prep.__main__ import main
assert main(sys.argv[1:]) == 0
lines = open("/proc/self/status").read().splitlines()  # getrusage counts the parent's peak too
print(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
"""


@pytest.mark.slow
def test_memory_for_many_images_is_a_few_tens_of_bytes_each(tmp_path: Path) -> None:
    """Peak memory of a fresh process with 2,000 and with 42,000 tiny images."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak of memory is read from Linux's /proc")
    image = jpeg(0, size=(1, 1))
    peaks = []
    for rows in (2_000, 42_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        index, at = [], 0
        with (folder / "train.rec").open("wb") as rec:
            for key in range(rows):
                index.append(f"{key}\t{at}\n")
                at += rec.write(record(payload(float(key % 50), image, number=key)))
        (folder / "train.idx").write_text("".join(index))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, "recordio", str(folder), str(folder / "dst")],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(1024 * int(done.stdout.splitlines()[-1]))
    # 15 bytes were measured, between 5,000 and 100,000 images; allocators round.
    assert (peaks[1] - peaks[0]) / 40_000 < 150
