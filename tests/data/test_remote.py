from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from facerec.cli import main
from facerec.config import TrainConfig, load, override
from facerec.data import remote_cache, remote_store
from facerec.data.augment import Augment
from facerec.data.index import index_file, is_prepared
from facerec.data.place import absolute, folder_of, url_of
from facerec.data.shards import DataError, Shards
from facerec.data.stream import Batch, Stream
from facerec.data.writer import describe, write_json
from facerec.tuning.data import with_data
from tests.data.range_server import RangeServer, serving

ROOT = Path(__file__).parents[2]
GROUPS = 6  # row groups of the toy set's train split, in three shards


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FACEREC_CACHE_GB", raising=False)
    monkeypatch.setattr(remote_store, "PAUSES", (0.01, 0.01, 0.01))
    return tmp_path / "cache" / "facerec" / "remote"


@pytest.fixture
def server(toy_shards: Path) -> Iterator[RangeServer]:
    with serving(toy_shards.parent) as running:
        yield running


def epoch(shards: Shards | Path | str, number: int = 0) -> list[Batch]:
    return list(Stream(shards, batch_size=24, seed=5, epoch=number, augment=Augment()))


def same(one: list[Batch], two: list[Batch]) -> bool:
    return all(
        np.array_equal(a.images, b.images)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.draws, b.draws)  # type: ignore[arg-type]
        and a.keys == b.keys
        for a, b in zip(one, two, strict=True)
    )


def images(place: Shards | Path | str) -> list[bytes]:
    """As they lie in the shards, not decoded."""
    split = (place if isinstance(place, Shards) else Shards(place)).split()
    groups = range(len(split.group_rows))
    return [bytes(image) for group in groups for image in split.read(group).images]


def held(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.rglob("*") if path.name != ".lock")


def copy_of(toy_shards: Path, tmp_path: Path) -> Path:
    shutil.copytree(toy_shards, tmp_path / "www" / "faces")
    return tmp_path / "www" / "faces"


def flip_a_byte(shard: Path) -> None:
    """Another image of the same length at the same place."""
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.write_bytes(content)


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/faces", "s3://bucket/faces"),
        (Path("s3://bucket/faces/"), "s3://bucket/faces"),
        (Path("https://host:8080/a/faces"), "https://host:8080/a/faces"),
        ("memory://faces", "memory://faces"),
        ("shards/faces", None),
        ("/data/s3:/faces", None),
        (Path("C:/faces"), None),
        ("file:///data/faces", None),
    ],
)
def test_places(place: str | Path, url: str | None) -> None:
    assert url_of(place) == url
    assert url is None or (absolute(place) == url and is_prepared(place))


def test_places_of_this_machine(tmp_path: Path) -> None:
    assert folder_of("file:///data/faces") == folder_of(Path("file:///data/faces"))
    assert folder_of("file:///data/faces") == Path("/data/faces")
    assert absolute("faces") == str(Path.cwd() / "faces")
    assert not is_prepared(tmp_path)


@pytest.mark.parametrize("place", ["s3://me:geheim@bucket/faces", "https://h/f?token=geheim"])
def test_secrets_in_a_url_are_refused_and_not_repeated(place: str) -> None:
    with pytest.raises(DataError, match=r"\*\*\*") as caught:
        Shards(place)
    assert "geheim" not in str(caught.value)


def test_the_same_batches_as_from_the_folder(server: RangeServer, toy_shards: Path) -> None:
    shards = Shards(Path(f"{server.url}/{toy_shards.name}"))  # a Path writes one slash less
    assert shards.place == f"{server.url}/toy"
    assert shards.path.name == "toy"
    assert index_file(shards.place).read_bytes() == (toy_shards / "index.json").read_bytes()
    for number in range(2):
        assert same(epoch(shards, number), epoch(toy_shards, number))
    ranks = [
        list(
            Stream(pickle.loads(pickle.dumps(shards)), batch_size=24, seed=5, rank=r, world_size=2)
        )
        for r in range(2)
    ]
    joined = [a.keys + b.keys for a, b in zip(*ranks, strict=True)]
    assert joined == [batch.keys for batch in epoch(toy_shards)]
    mine, theirs = (s.split("val") for s in (shards, Shards(toy_shards)))
    np.testing.assert_array_equal(mine.labels(), theirs.labels())
    assert mine.column_names == theirs.column_names
    assert mine.columns(["key"])["key"].tolist() == theirs.columns(["key"])["key"].tolist()
    with pytest.raises(DataError, match=r"train-00000\.parquet has no column medium"):
        shards.split().columns(["medium"])


def test_few_requests_and_none_in_the_second_epoch(server: RangeServer, toy_shards: Path) -> None:
    shards = Shards(f"{server.url}/toy")
    opened = Counter((method, Path(path).suffix) for method, path, _ in server.requests)
    assert opened == {("GET", ".json"): 2, ("HEAD", ".parquet"): 4, ("GET", ".parquet"): 4}
    server.requests.clear()
    epoch(shards)
    assert Counter(method for method, _, _ in server.requests) == {"GET": GROUPS, "HEAD": GROUPS}
    fetched = sum(sent for _, _, sent in server.requests)
    files = [toy_shards / entry["file"] for entry in shards.index["shards"]]
    assert fetched < sum(path.stat().st_size for path in files)
    shards.split().labels()
    server.requests.clear()
    epoch(shards, 1)
    shards.split().labels()
    assert server.requests == []
    again = Shards(f"{server.url}/toy")
    epoch(again, 2)
    again.split().labels()
    assert [path for _, path, _ in server.requests] == ["/toy/index.json"]


def test_labels_come_without_the_images(server: RangeServer, toy_shards: Path) -> None:
    shards = Shards(f"{server.url}/toy")
    server.requests.clear()
    np.testing.assert_array_equal(shards.split().labels(), Shards(toy_shards).split().labels())
    assert sum(sent for _, _, sent in server.requests) < 1000


def test_fetches_ahead_in_several_threads(server: RangeServer) -> None:
    split = Shards(f"{server.url}/toy").split()
    server.requests.clear()
    server.delay = 0.03
    split.prefetch(range(GROUPS))
    ends = time.monotonic() + 20
    while len(server.requests) < 2 * GROUPS and time.monotonic() < ends:
        time.sleep(0.005)
    assert server.most_at_once > 2
    for group in range(GROUPS):
        split.read(group)
    assert len(server.requests) == 2 * GROUPS


def test_who_reads_in_order_need_not_ask(server: RangeServer) -> None:
    split = Shards(f"{server.url}/toy").split()
    split.read(0)
    split.read(1)
    ends = time.monotonic() + 20
    while len(server.requests) < 10 + 2 * GROUPS and time.monotonic() < ends:
        time.sleep(0.005)
    assert len(server.requests) == 10 + 2 * GROUPS


def test_what_is_asked_for_and_never_read_is_bounded(server: RangeServer) -> None:
    split = Shards(f"{server.url}/toy").split()
    split._groups *= 40
    split._files = [f"{n:03d}/{file}" for n in range(40) for file in split._files]
    split._groups = [(n, 0, 0) for n in range(120)]
    server.delay = 0.05
    for first in range(0, 120, 16):
        split.prefetch(range(first, min(first + 16, 120)))
    assert len(split._source._coming) <= 64  # type: ignore[attr-defined]


def test_a_server_that_stumbles_is_asked_again(server: RangeServer, toy_shards: Path) -> None:
    server.failures = [503, 500]
    shards = Shards(f"{server.url}/toy")
    server.failures = [500, 0, 429, 0, 0, 503]
    assert same(epoch(shards), epoch(toy_shards))
    assert server.failures == []


@pytest.mark.parametrize(("status", "tries"), [(403, 1), (401, 1), (500, 4)])
def test_what_stays_wrong_is_one_line(server: RangeServer, status: int, tries: int) -> None:
    server.failures = [status] * 20
    with pytest.raises(
        DataError, match=rf"/toy/index\.json cannot be read: HTTP {status}"
    ) as caught:
        Shards(f"{server.url}/toy")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == tries


def test_errors_of_the_threads_reach_the_reader(server: RangeServer) -> None:
    shards = Shards(f"{server.url}/toy")
    server.failures = [403] * 50
    with pytest.raises(DataError, match=r"train-0000\d\.parquet cannot be read: HTTP 403 Forb"):
        epoch(shards)
    server.failures = []
    assert len(epoch(shards)) == 5  # nothing of it stays


def test_no_set_there(server: RangeServer, toy_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"/none has no index\.json"):
        Shards(f"{server.url}/none")
    with pytest.raises(DataError, match=r"unknown://faces: cannot be opened: Protocol not known"):
        Shards("unknown://faces")
    (copy_of(toy_shards, tmp_path) / "train-00001.parquet").unlink()
    with (
        serving(tmp_path / "www") as other,
        pytest.raises(DataError, match=r"/faces: train-00001\.parquet is missing, index"),
    ):
        Shards(f"{other.url}/faces")


def test_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:1/faces/index\.json .*tried 4 times"):
        Shards("http://127.0.0.1:1/faces")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(DataError, match=r"s3://.*pip install 'facerec\[remote\]'"):
        Shards("s3://bucket/faces")


def test_a_server_without_byte_ranges_is_refused_early(server: RangeServer) -> None:
    server.ranges = False
    with pytest.raises(DataError, match=r"does not know byte ranges; serve .* or copy"):
        Shards(f"{server.url}/toy")
    assert all(path.endswith("index.json") for _, path, _ in server.requests)


def test_a_shard_that_changed_is_refused_and_forgotten(toy_shards: Path, tmp_path: Path) -> None:
    folder = copy_of(toy_shards, tmp_path)
    with serving(folder.parent) as server:
        shards = Shards(f"{server.url}/faces")
        shards.split().read(0)
        flip_a_byte(folder / "train-00002.parquet")
        with pytest.raises(DataError, match=r"train-00002\.parquet: changed under its URL"):
            epoch(shards)
        assert not list(shards.path.glob("*.footers"))
        assert images(f"{server.url}/faces") == images(folder)


def test_a_set_made_anew_is_another_set(toy_shards: Path, tmp_path: Path) -> None:
    folder = copy_of(toy_shards, tmp_path)
    with serving(folder.parent) as server:
        before = Shards(f"{server.url}/faces")
        old = images(before)
        flip_a_byte(folder / "train-00002.parquet")
        index = json.loads((folder / "index.json").read_text())
        index["shards"][2] = describe(folder / "train-00002.parquet")
        write_json(folder / "index.json", index)
        after = Shards(f"{server.url}/faces")
        assert after.path != before.path
        assert images(after) == images(folder) != old


def test_a_shard_that_is_no_parquet(toy_shards: Path, tmp_path: Path) -> None:
    folder = copy_of(toy_shards, tmp_path)
    (folder / "train-00001.parquet").write_bytes(b"no parquet at all")
    with serving(folder.parent) as server:
        with pytest.raises(
            DataError, match=r"train-00001\.parquet cannot be read: it does not end"
        ):
            Shards(f"{server.url}/faces")
        (folder / "train-00001.parquet").write_bytes(b"PAR1" + bytes(60) + b"\x30\0\0\0PAR1")
        with pytest.raises(DataError, match=r"train-00001\.parquet cannot be read"):
            Shards(f"{server.url}/faces")


def test_pairs_are_fetched_whole_and_checked(toy_pairs: Path, tmp_path: Path) -> None:
    shutil.copytree(toy_pairs, tmp_path / "www" / "pairs")
    with serving(tmp_path / "www") as server:
        found, wanted = Shards(f"{server.url}/pairs").pairs(), Shards(toy_pairs).pairs()
        assert found is not None
        assert wanted is not None
        np.testing.assert_array_equal(found.first, wanted.first)
        np.testing.assert_array_equal(found.same, wanted.same)
        table = tmp_path / "www" / "pairs" / "pairs.parquet"
        table.write_bytes(table.read_bytes()[:-1] + b"2")
        shutil.rmtree(tmp_path / "cache")
        with pytest.raises(DataError, match=r"pairs\.parquet: is not the file that index\.json"):
            Shards(f"{server.url}/pairs")


def test_the_cache_keeps_its_bound(
    server: RangeServer, toy_shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEREC_CACHE_GB", "0.0003")  # two groups and what always stays
    shards = Shards(f"{server.url}/toy")
    sizes = []
    original = remote_cache._publish

    def publish(aside: Path, path: Path, content: object) -> bool:
        done = original(aside, path, content)
        sizes.append(sum(p.stat().st_size for p in cache.rglob("*.arrow") if p.exists()))
        return done

    monkeypatch.setattr(remote_cache, "_publish", publish)
    for number in range(3):
        assert same(epoch(shards, number), epoch(toy_shards, number))
    assert max(sizes) > 100_000
    assert max(sizes) <= 300_000
    assert held(cache) <= 300_000


def test_what_was_used_longest_ago_goes_first(
    server: RangeServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Shards(f"{server.url}/toy").split()
    for group in (0, 2, 4):  # the large ones, some 143 kB each
        split.read(group)
    for at, group in enumerate((2, 4, 0)):
        path = next(cache.rglob(f"train-0000{group // 2}.parquet.*.0.arrow"))
        os.utime(path, (1000 + at, 1000 + at))
    monkeypatch.setenv("FACEREC_CACHE_GB", f"{(held(cache) + 10_000) / 1e9}")
    split.read(1)
    names = [path.name.split(".") for path in cache.rglob("*.arrow")]
    kept = {(shard, group) for shard, _, _, group, _ in names}
    assert kept == {("train-00000", "0"), ("train-00000", "1"), ("train-00002", "0")}


def test_never_more_than_half_of_the_free_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert remote_cache.limit() == 500
    assert remote_cache.limit(used=600) == 800
    monkeypatch.setenv("FACEREC_CACHE_GB", "1e-7")
    assert remote_cache.limit() == 100
    monkeypatch.setenv("FACEREC_CACHE_GB", "much")
    with pytest.raises(DataError, match=r"FACEREC_CACHE_GB = much: takes a number"):
        remote_cache.limit()


def test_a_cache_without_room_still_reads(
    server: RangeServer, toy_shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Shards(f"{server.url}/toy")
    monkeypatch.setenv("FACEREC_CACHE_GB", "0")
    assert same(epoch(shards), epoch(toy_shards))
    assert not list(cache.rglob("*.arrow"))
    shutil.rmtree(cache)
    with pytest.raises(DataError, match=r"index\.json: no room for .* FACEREC_CACHE_GB"):
        Shards(f"{server.url}/toy")


def test_a_cache_that_cannot_be_written(
    server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"file/facerec/remote: cannot be written .*XDG_CACHE_HOME"):
        Shards(f"{server.url}/toy")


def test_what_a_killed_process_left_is_no_harm(
    server: RangeServer, toy_shards: Path, cache: Path
) -> None:
    shards = Shards(f"{server.url}/toy")
    epoch(shards)
    first, second, third, *_ = sorted(cache.rglob("*.arrow"))
    first.rename(first.with_name(first.name + ".part"))  # killed before the new name
    second.write_bytes(second.read_bytes()[:1000])
    third.write_bytes(b"")
    (cache / ".lock").write_bytes(b"12")
    assert same(epoch(shards), epoch(toy_shards))
    assert not list(cache.rglob("*.part"))


def test_leftovers_go_when_room_is_made(
    server: RangeServer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Shards(f"{server.url}/toy").split()
    left = cache / "abandoned.arrow.part"
    left.write_bytes(bytes(1000))
    monkeypatch.setenv("FACEREC_CACHE_GB", "0.0002")
    for group in range(GROUPS):
        split.read(group)
    assert not left.exists()


def test_readers_at_once_fetch_each_group_once(server: RangeServer, toy_shards: Path) -> None:
    server.delay = 0.01
    readers = [Shards(f"{server.url}/toy").split() for _ in range(3)]
    server.requests.clear()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda n: readers[n % 3].read(n // 3).keys, range(3 * GROUPS)))
    wanted = Shards(toy_shards).split()
    assert found == [wanted.read(n // 3).keys for n in range(3 * GROUPS)]
    assert sum(method == "GET" for method, _, _ in server.requests) == GROUPS


READ_ALL = """
import sys
from facerec.data.shards import Shards
split = Shards(sys.argv[1]).split()
for group in range(len(split.group_rows)):
    split.read(group)
"""


def reader(url: str) -> subprocess.Popen[bytes]:
    """A process that reads every row group of a set."""
    return subprocess.Popen([sys.executable, "-c", READ_ALL, url], cwd=ROOT)


@pytest.mark.slow
def test_killed_at_any_moment_leaves_a_whole_cache(
    server: RangeServer, toy_shards: Path, cache: Path
) -> None:
    server.delay = 0.02
    for moment in np.random.default_rng(1).uniform(0, 0.3, 4):
        begun = len(server.requests)
        with reader(f"{server.url}/toy") as process:
            while len(server.requests) == begun:
                time.sleep(0.005)
            time.sleep(moment)
            process.kill()
        for path in cache.rglob("*.arrow"):
            assert remote_cache._mapped(path) is not None
    server.delay = 0.0
    assert same(epoch(f"{server.url}/toy"), epoch(toy_shards))
    assert not list(cache.rglob("*.part"))


@pytest.mark.slow
def test_processes_at_once_share_what_they_fetch(server: RangeServer) -> None:
    server.delay = 0.02
    processes = [reader(f"{server.url}/toy") for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    shards = [path for method, path, _ in server.requests if method == "GET" and "train" in path]
    assert len(shards) == 3 + GROUPS  # a footer each, and the groups


def test_in_memory(toy_shards: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    fsspec.filesystem("memory").put(str(toy_shards), "/toy", recursive=True)
    assert same(epoch("memory://toy"), epoch(toy_shards))


@pytest.mark.slow
def test_s3(toy_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        bucket = s3fs.S3FileSystem()
        bucket.mkdir("bucket")
        bucket.put(str(toy_shards), "bucket/", recursive=True)
        shards = Shards("s3://bucket/toy")
        assert same(epoch(shards), epoch(toy_shards))
        np.testing.assert_array_equal(
            shards.split("val").labels(), Shards(toy_shards).split("val").labels()
        )
        with pytest.raises(DataError, match=r"s3://bucket/none has no index\.json"):
            Shards("s3://bucket/none")
        left = next(shards.path.glob("train-00001.parquet.*.0.arrow"))
        left.unlink()
        bucket.pipe("bucket/toy/train-00001.parquet", b"another")
        with pytest.raises(DataError, match=r"changed under its URL|shorter than it was"):
            epoch(shards)
    finally:
        server.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_the_commands_take_urls(
    server: RangeServer,
    toy_pairs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, faces, pairs = tmp_path / "run", f"{server.url}/toy", tmp_path / "pairs.parquet"
    words = [f"data.train={faces}", "data.batch_size=40", "epochs=1", "backbone.name=tiny"]
    words += ["head.embedding_size=16", "preset=laptop", f"data.eval={server.url}/pairs"]
    shutil.copytree(toy_pairs, server.root / "pairs", dirs_exist_ok=True)
    assert main(["train", "--run", str(run), *words]) == 0
    assert load(run / "config.json").data.train == faces
    assert "| pairs | `" in (run / "model_card.md").read_text()
    assert main(["evaluate", str(run), f"{server.url}/pairs", faces]) == 0
    assert main(["embed", str(run), faces, str(pairs), "--split", "val"]) == 0
    out = capsys.readouterr().out
    assert "pairs:" in out
    assert "val:" in out
    assert "200 embeddings" in out
    assert main(["embed", str(run), f"{server.url}/none", str(pairs)]) == 2
    assert "none has no index.json" in capsys.readouterr().err


def test_threads_end(server: RangeServer) -> None:
    epoch(f"{server.url}/toy")
    ends = time.monotonic() + 20
    while any(t.name == "facerec-remote" for t in threading.enumerate()):
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_sweep_keeps_the_url(toy_pairs: Path) -> None:
    sets = f"{toy_pairs},s3://bucket/lfw"
    config = override(TrainConfig(), {"data.train": "s3://bucket/faces", "data.eval": sets})
    found = with_data(config)
    assert (found.data.train, found.data.eval) == ("s3://bucket/faces", sets)
