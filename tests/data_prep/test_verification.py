from __future__ import annotations

import builtins
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.verification import Verification
from facerec.data.shards import DataError
from tests.data_prep.sources import jpeg

IMAGES = [jpeg(n) for n in range(6)]
SAME = [True, False, True]


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def check(path: Path) -> None:
    source = Verification(path)
    assert [source[n].image for n in range(len(source))] == IMAGES
    assert [source[n].key for n in range(len(source))] == ["0", "1", "2", "3", "4", "5"]
    assert source.same.dtype == np.bool_
    assert source.same.tolist() == SAME


def arrays(*shape: int) -> list[Any]:
    return [np.frombuffer(image, np.uint8).reshape(-1, *shape).copy() for image in IMAGES]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    ("images", "same"),
    [
        (IMAGES, SAME),
        (tuple(IMAGES), tuple(SAME)),
        (arrays(), SAME),
        (arrays(1), SAME),
        ([np.frombuffer(image, np.uint8) for image in IMAGES], SAME),  # read-only ones
        (IMAGES, [np.bool_(flag) for flag in SAME]),
        (IMAGES, np.array(SAME)),
        (IMAGES, [1, 0, 1]),
    ],
    ids=["bytes", "tuples", "arrays", "columns", "readonly", "scalars", "flag_array", "ints"],
)
def test_all_spellings(tmp_path: Path, images: Any, same: Any, protocol: int) -> None:
    check(write(tmp_path / "a.bin", (images, same), protocol))


def test_both_spellings_of_numpy(tmp_path: Path) -> None:
    new = pickle.dumps((arrays(), [np.bool_(flag) for flag in SAME]), 2)
    old = new.replace(b"numpy._core.", b"numpy.core.")
    assert (new != old) == (np.lib.NumpyVersion(np.__version__) >= "2.0.0")
    for data in (new, old):
        (tmp_path / "a.bin").write_bytes(data)
        check(tmp_path / "a.bin")


def test_python_2_strings(tmp_path: Path) -> None:
    """Protocol 2 as Python 2 wrote it: str items by SHORT_BINSTRING and BINSTRING."""
    items = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in IMAGES[:-1])
    last = b"U\x03abc"
    flags = b"".join(b"\x88" if flag else b"\x89" for flag in SAME)
    data = b"\x80\x02](" + items + last + b"e](" + flags + b"e\x86."
    (tmp_path / "a.bin").write_bytes(data)
    source = Verification(tmp_path / "a.bin")
    assert [source[n].image for n in range(6)] == [*IMAGES[:-1], b"abc"]
    assert source.same.tolist() == SAME


def test_python_2_arrays(tmp_path: Path) -> None:
    """As NumPy under Python 2 wrote them: the dtype's name and the data are str."""
    image = IMAGES[0]
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
    state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR" + state
    shape = b"(J" + struct.pack("<i", len(image)) + b"t"
    data = b"T" + struct.pack("<i", len(image)) + image
    array = head + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"
    (tmp_path / "a.bin").write_bytes(b"\x80\x02](" + array + array + b"e]\x88a\x86.")
    source = Verification(tmp_path / "a.bin")
    assert [source[0].image, source[1].image, source.same.tolist()] == [image, image, [True]]


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_hostile_names_are_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    trace = tmp_path / "trace"
    for function, argument, name in (
        (os.system, f"touch {trace}", r"(posix|nt)\.system"),
        (builtins.eval, f"open({str(trace)!r}, 'w')", r"(builtins|__builtin__)\.eval"),
        (builtins.getattr, "x", r"(builtins|__builtin__)\.getattr"),
        (np.load, "x", r"numpy\.load"),
    ):
        path = write(tmp_path / "a.bin", ([Call(function, argument), b"x"], [True]), protocol)
        with pytest.raises(DataError, match=rf"a\.bin is no verification set: it asks for {name}"):
            Verification(path)
    assert not trace.exists()


def test_no_attribute_of_an_allowed_name_is_reached(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0edtype.__init__\x93.")
    with pytest.raises(DataError, match=r"it asks for numpy\.dtype\.__init__"):
        Verification(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ftR.", "does not hold"),
        (b"\x80\x02r\xff\xff\xff\x7f.", "memo number 2147483647 in 8 bytes"),
        (b"\x80\x02]r\xf0\xff\xff\x7f.", "memo number 2147483632"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.", "expected 9223372036854775807 bytes"),
        (b"\x80\x02}q\x00.", "it builds a dict or set (EMPTY_DICT)"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.", "codec"),
    ],
    ids=["ndarray", "memo", "list memo", "bytes", "dict", "codec"],
)
def test_bombs_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.bin").write_bytes(data)
    with pytest.raises(DataError) as error:
        Verification(tmp_path / "a.bin")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("shape", [b"K\x05", b"J\xff\xff\xff\x7f", b"]"])
def test_an_array_is_as_long_as_its_bytes(tmp_path: Path, shape: bytes) -> None:
    head = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    state = b"(K\x01(" + shape + b"tcnumpy\ndtype\n(U\x02u1tR\x89U\x03abctb"
    (tmp_path / "a.bin").write_bytes(b"\x80\x02](" + head + state + b"e]\x86.")
    with pytest.raises(DataError, match="3 bytes do not fit the shape of their array"):
        Verification(tmp_path / "a.bin")


def test_a_cut_file_is_one_clear_line(tmp_path: Path) -> None:
    data = pickle.dumps((IMAGES, SAME), 4)
    for length in (0, 1, 20, len(data) // 2, len(data) - 1):
        (tmp_path / "a.bin").write_bytes(data[:length])
        with pytest.raises(DataError, match=r"a\.bin is no verification set: .+") as error:
            Verification(tmp_path / "a.bin")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((IMAGES[:3], [True, True]), "holds 3 images for 2 pairs; two images a pair"),
        (([], []), "holds 0 images for 0 pairs"),
        (IMAGES, "does not hold (images, same), but a list"),
        ((IMAGES, SAME, 1), "does not hold (images, same), but a tuple"),
        ((1, 2), "does not hold (images, same)"),
        ((["text", b"x"], [True]), "image 0 is a str, not bytes"),
        (([b"x", None], [True]), "image 1 is a NoneType, not bytes"),
        ((np.zeros(2, bool), [True]), "does not hold (images, same)"),
        (([b"x", np.zeros(3, bool)], [True]), "image 1 is a Array, not bytes"),
        (([b"x", b"y"], [2]), "the flag of pair 0 is of type int, not a bool"),
        (([b"x", b"y"], ["yes"]), "the flag of pair 0 is of type str, not a bool"),
        (([b"x", b"y"], [None]), "the flag of pair 0 is of type NoneType"),
    ],
)
def test_counts_and_types_are_checked(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        Verification(write(tmp_path / "a.bin", content))
    assert message in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.bin cannot be read: No such file"):
        Verification(tmp_path / "none.bin")
