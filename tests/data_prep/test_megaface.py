"""Probes and distractors by lists: MegaFace's layout, and lists of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_prep.__main__ import main
from data_prep.cuts import Options
from data_prep.megaface import Listed, Megaface, read_list, read_noises
from data_prep.prepare import prepare
from facerec.data.shards import DataError, Shards
from tests.data_prep.sources import Silent, jpeg

PROBES = ["Bea/b1.jpg", "Ada/a1.jpg", "Bea/b2.jpg", "Ada/a2.jpg", "é/1.jpg"]
DISTRACTORS = ["9/x/2.jpg", "1/x/2.jpg", "1/y/3.jpg"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "testpack"
    number = 0
    for name, paths in (("facescrub", PROBES), ("megaface", DISTRACTORS)):
        for path in paths:
            image = root / f"{name}_images" / path
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(jpeg(number))
            number += 1
        (root / f"{name}_lst").write_text("\n".join(paths) + "\n", encoding="utf-8")
    (root / "facescrub_noises.txt").write_text("# by hand\nb2.jpg\nBea/b1.jpg\n")
    (root / "megaface_noises.txt").write_text("why\t1/x/2.jpg\n2.jpg\n")
    return root


def rows(folder: Path, name: str) -> dict[str, list[Any]]:
    content: dict[str, list[Any]] = pq.read_table(folder / f"{name}-00000.parquet").to_pydict()
    return content


def test_probes_and_distractors(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dst"
    assert main(["megaface", str(root), str(folder)]) == 0
    probes, distractors = rows(folder, "shard"), rows(folder, "distractors")
    assert probes["key"] == PROBES
    assert probes["identity"] == ["Bea", "Ada", "Bea", "Ada", "é"]
    assert probes["label"] == [1, 0, 1, 0, 2]
    assert probes["noisy"] == [False, False, True, False, False]
    assert distractors["key"] == DISTRACTORS
    assert (distractors["label"], distractors["identity"]) == ([-1] * 3, [""] * 3)
    assert distractors["noisy"] == [False, True, False]
    assert probes["image"] + distractors["image"] == [jpeg(n) for n in range(8)]
    shards = Shards(folder)
    assert (shards.split().classes, shards.split("distractors").classes) == (3, 0)
    assert list(shards.index["splits"]) == ["distractors"]
    found = shards.split("distractors").columns(["noisy", "key"])
    assert found["noisy"].dtype == np.bool_
    assert found["key"].tolist() == DISTRACTORS
    with pytest.raises(DataError, match=r"distractors-00000\.parquet has no column template"):
        shards.split("distractors").columns(["noisy", "template"])
    assert shards.index["source"]["counts"]["noisy_distractors"] == 1
    assert "distractors" in capsys.readouterr().out


def test_lists_of_ones_own(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("facescrub_images/Ada/a2.jpg\nfacescrub_images/Bea/b2.jpg\n")
    (tmp_path / "others").write_text("megaface_images/1/y/3.jpg\n")
    command = ["megaface", str(root), str(tmp_path / "dst")]
    for option, value in (("probe", "mine"), ("distractor", "others")):
        command += [f"--{option}s", str(tmp_path / value), f"--{option}-root", str(root)]
    assert main(command) == 0
    probes = rows(tmp_path / "dst", "shard")
    assert (probes["key"], probes["label"]) == (["Ada/a2.jpg", "Bea/b2.jpg"], [0, 1])
    assert probes["noisy"] == [False, True]
    assert rows(tmp_path / "dst", "distractors")["key"] == ["1/y/3.jpg"]


def test_what_cannot_be_used_fails_or_is_left_out(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "facescrub_images" / "Ada" / "a1.jpg").write_bytes(b"no image")
    (root / "megaface_images" / "9" / "x" / "2.jpg").unlink()
    for name, again in (("facescrub", PROBES[0]), ("megaface", DISTRACTORS[1])):
        with (root / f"{name}_lst").open("a", encoding="utf-8") as file:
            file.write(f"{again}\n")
    command = ["megaface", str(root), str(tmp_path / "dst")]
    assert main(command) == 2
    assert capsys.readouterr().err.startswith("error: testpack, key Ada/a1.jpg: no readable image")
    assert main([*command, "--on-error", "skip"]) == 3
    out = capsys.readouterr()
    assert "2.jpg cannot be read: No such file" in out.err
    assert "key Bea/b1.jpg: probe 6 of facescrub_lst is probe 1 again and would" in out.err
    assert out.out.splitlines()[-1].startswith("3 of 10 images left out: ")
    assert rows(tmp_path / "dst", "shard")["label"] == [1, 1, 0, 2]
    assert rows(tmp_path / "dst", "distractors")["key"] == ["1/x/2.jpg", "1/y/3.jpg", "1/x/2.jpg"]


def test_one_side_alone_is_no_set(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (root / "megaface_images").rglob("*.jpg"):
        path.unlink()
    command = ["megaface", str(root), str(tmp_path / "dst")]
    assert main([*command, "--on-error", "skip"]) == 2
    assert "testpack: no distractor is left that can be used" in capsys.readouterr().err
    (root / "megaface_lst").unlink()
    assert main(command) == 2
    assert "megaface_lst: no such list; --distractors LIST names" in capsys.readouterr().err
    assert main([*command, "--probe-root", str(tmp_path / "none")]) == 2
    assert "none: no such folder of probes; --probe-root DIR names" in capsys.readouterr().err


class Stumbling(Megaface):
    """Fails in the second pass, after some images."""

    left = 8 + 6

    def __getitem__(self, position: int) -> Any:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(position)


def test_an_interrupted_run_goes_on_to_the_same_end(root: Path, tmp_path: Path) -> None:
    def run(kind: type[Megaface], name: str) -> dict[str, bytes]:
        probes, distractors = (
            Listed(root / f"{side}_lst", root / f"{side}_images", root / "none")
            for side in ("facescrub", "megaface")
        )
        source, tell = kind(probes, distractors, "testpack"), Silent()
        options, folder = Options(), tmp_path / name
        prepare(source, folder, options, said={}, tell=tell, cut=source.cut, shard_rows=2)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    with pytest.raises(KeyboardInterrupt):
        run(Stumbling, "two")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "two").glob("*.parquet")}
    assert len(kept) == 3
    whole = run(Megaface, "two")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert whole == run(Megaface, "one")
    assert sum(name.startswith("distractors-") for name in whole) == 2


def test_lists(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text("Ada/1.jpg\n\nroot/facescrub/Bea/1b.jpg\r\n", encoding="utf-8")
    assert read_list(path, 2) == ["Ada/1.jpg", "root/facescrub/Bea/1b.jpg"]
    with pytest.raises(DataError, match=r"line 1: 'Ada/1.jpg' is no path of 3 parts"):
        read_list(path, 3)
    for text, message in (
        ("a/b\n../1.jpg\n", r"line 2: '\.\./1\.jpg' is no path of 2 parts"),
        ("\n", "names no image"),
        ("a\xff/b", "not UTF-8: byte 1"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(DataError, match=message):
            read_list(path, 2)
    path.write_text("# noisy\nAda_1.jpg\nsome thing\ta/b/1.jpg\n", encoding="utf-8")
    assert read_noises(path) == {"Ada_1.jpg", "a/b/1.jpg"}
    with pytest.raises(DataError, match="nothing cannot be read"):
        read_noises(tmp_path / "nothing")
