"""Whatever bytes come: a reader gives images or says what is wrong, nothing else."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.cuts import Options
from data_prep.lists import List
from data_prep.pairs_list import PairsList
from data_prep.prepare import prepare
from data_prep.readers import Folder, Source
from data_prep.recordio import Recordio
from data_prep.verification import Verification
from facerec.data.shards import DataError, Shards
from tests.data_prep.sources import Silent, jpeg, layout_a, record, write_folder

IMAGE = jpeg(1, size=(4, 4))
RECORDS = layout_a([(n // 2, IMAGE) for n in range(4)])
REC = b"".join(record(content) for content in RECORDS.values())
IDX = b""
for _key, _content in RECORDS.items():
    IDX += b"%d\t%d\n" % (_key, sum(len(record(RECORDS[k])) for k in range(_key)))
BIN = pickle.dumps(([IMAGE, bytearray(IMAGE)] * 2, [True, False]), 5)
LIST = b"a0.jpg 0 0 0\nb0.jpg 0 1 0\n7\t1\ta1.jpg\n"
LAYOUT = "{name}{number}.jpg"
FACES = {f"{name}{number}_jpg": IMAGE for name in "ab" for number in range(2)}
PAIRS = b"1\t2\na\t0\t1\na\t0\tb\t1\nb\t0\t1\nb\t0\ta\t1\n"


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes that were good once: some replaced, cut out, put in or repeated; or any at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(["set", "word", "cut", "put", "end", "twice"]))
        if change == "set":
            data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
        elif change == "word":
            data[at : at + 4] = struct.pack("<I", draw(st.integers(0, 2**32 - 1)))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 40))]
        elif change == "put":
            odd = st.sampled_from([b"\n", b"\t", b"\0", b"-", b"9" * 30, b"nan", b"\xff", b"../"])
            data[at:at] = draw(odd | st.binary(max_size=8))
        elif change == "end":
            del data[at:]
        else:
            data[at:at] = data[at // 2 : at]
    return bytes(data)


def read_all(open_it: Callable[[], Source]) -> None:
    """Opens a source and asks it for every image; only `DataError` may come of it."""
    with contextlib.suppress(DataError):
        source = open_it()
        assert len(source) < 1000
        for position in range(len(source)):
            with contextlib.suppress(DataError):
                assert isinstance(source[position].image, bytes)


@contextlib.contextmanager
def folder(**files: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            (Path(name) / file.replace("_", ".")).write_bytes(content)
        yield Path(name)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("faces") / "root", ["a", "b"], 2)


def check_records(rec: bytes) -> None:
    with folder(train_rec=rec, train_idx=IDX, property=b"2,4,4") as path:
        read_all(lambda: Recordio(path))


def check_index(idx: bytes) -> None:
    with folder(train_rec=REC, train_idx=idx) as path:
        read_all(lambda: Recordio(path))


def check_property(text: bytes) -> None:
    with folder(train_rec=REC, train_idx=IDX, property=text) as path:
        read_all(lambda: Recordio(path))


def check_bin(data: bytes) -> None:
    with folder(a_bin=data) as path:
        read_all(lambda: Verification(path / "a.bin"))


def check_list(text: bytes) -> None:
    with folder(a_list=text, **FACES) as path:
        read_all(lambda: List(path / "a.list", path))


def check_pairs(text: bytes) -> None:
    with folder(pairs_txt=text, **FACES) as path:
        read_all(lambda: PairsList(path / "pairs.txt", path, LAYOUT))


CHECKS: dict[str, tuple[Callable[[bytes], None], bytes]] = {
    "records": (check_records, REC),
    "index": (check_index, IDX),
    "property": (check_property, b"2,4,4\n4"),
    "bin": (check_bin, BIN),
    "list": (check_list, LIST),
    "pairs": (check_pairs, PAIRS),
}


def run(kind: str, examples: int) -> None:
    check, whole = CHECKS[kind]
    check(whole)

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=damaged(whole))
    def fuzz(data: bytes) -> None:
        check(data)

    fuzz()


@pytest.mark.parametrize("kind", list(CHECKS))
def test_damaged_bytes(kind: str) -> None:
    run(kind, 25)


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(CHECKS))
def test_many_damaged_bytes(kind: str) -> None:
    run(kind, 600)


def test_the_undamaged_are_read() -> None:
    """The fuzzing starts from what is whole."""
    files = {"train_rec": REC, "train_idx": IDX, "a_bin": BIN, "a_list": LIST, "pairs_txt": PAIRS}
    with folder(**files, **FACES) as path:
        for source in (
            Recordio(path),
            Verification(path / "a.bin"),
            List(path / "a.list", path),
            PairsList(path / "pairs.txt", path, LAYOUT),
        ):
            assert all(len(source[n].image) > 100 for n in range(len(source)))


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=6,
)


@st.composite
def indexes(draw: st.DrawFn, whole: dict[str, Any]) -> bytes:
    """An `index.json` with one place of it replaced, or damaged as bytes."""
    text = json.dumps(whole).encode()
    if draw(st.booleans()):
        return draw(damaged(text))
    content = json.loads(text)
    place: Any = content
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and draw(st.booleans()):
            place = place[key]
            continue
        if isinstance(place, dict) and draw(st.booleans()):
            del place[key]
        else:
            place[key] = draw(NESTED)
        return json.dumps(content).encode()


def run_indexes(faces: Path, folder: Path, examples: int) -> None:
    said = {"min_images": 1}

    def again() -> bool:
        done = prepare(Folder(faces), folder, Options(0, 0), said=said, tell=Silent())
        return done.already and done.left_out is not None

    again()
    whole = (folder / "index.json").read_bytes()

    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=indexes(json.loads(whole)) | st.just(b"[" * 100_000))
    def fuzz(data: bytes) -> None:
        for name in ("index.json", "preparing.json"):
            (folder / "index.json").unlink(missing_ok=True)
            (folder / name).write_bytes(data)
            with contextlib.suppress(DataError):
                again()
            with contextlib.suppress(DataError):
                Shards(folder)
            (folder / "preparing.json").unlink(missing_ok=True)

    fuzz()


def test_damaged_indexes(faces: Path, tmp_path: Path) -> None:
    run_indexes(faces, tmp_path / "dst", 15)


@pytest.mark.slow
def test_many_damaged_indexes(faces: Path, tmp_path: Path) -> None:
    run_indexes(faces, tmp_path / "dst", 400)
