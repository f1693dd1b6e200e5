"""The card says what the run folder and the data say, and nothing that they do not."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest

from facerec import export, history, model_card
from facerec.checkpoint import find
from facerec.config import ConfigError, flatten, load
from facerec.data import leaks
from facerec.data.writer import write_json
from facerec.evaluation.table import SCHEMA
from facerec.train import train
from tests.test_train import silent, toy_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def made(
    toy_shards: Path, toy_pairs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A finished run, and its own copy of the shards."""
    folder = tmp_path_factory.mktemp("cards")
    shards = shutil.copytree(toy_shards, folder / "toy")
    train(
        toy_config(shards, epochs=1, data__eval=str(toy_pairs)), run=folder / "run", report=silent
    )
    return folder / "run", shards


@pytest.fixture
def run(made: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run, with the card that the training wrote."""
    return shutil.copytree(made[0], tmp_path / "run")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_training_ends_with_a_card(run: Path, made: tuple[Path, Path], toy_pairs: Path) -> None:
    card = (run / "model_card.md").read_text()
    assert card.startswith("# Model card: run\n")
    assert f"`{sha256(find(run) / 'backbone.safetensors')}`" in card
    assert f"`{sha256(made[1] / 'index.json')}`" in card
    assert f"| pairs | `{sha256(toy_pairs / 'index.json')}` |" in card
    assert "| train | 120 images of 12 people |" in card
    assert "| val | 200 images of 20 people |" in card
    assert "| trained for | 1 epochs, 6 steps |" in card
    last = history.read(run)[-1]
    assert f"| val.tar | {last['val.tar']:.4f} |" in card
    assert f"| pairs.accuracy | {last['pairs.accuracy']:.4f} |" in card
    assert "| train." not in card
    assert "Without intervals" in card
    for key, value in flatten(load(run / "config.json")).items():
        assert f"{key}={value}\n" in card
    assert "docs/responsible_use.md" in card
    assert (ROOT / "docs/responsible_use.md").is_file()
    assert all(len(line) < 500 for line in card.splitlines())


def test_an_evaluation_in_the_run_folder_gives_intervals(run: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"set": "lfw", "metric": "accuracy", "value": 0.8625, "protocol": "10-fold"}
    rows = [
        {**row, "low": 0.84, "high": 0.88},
        {**row, "metric": "accuracy_std", "value": float("nan")},
        {**row, "fold": 3, "value": 0.1234},
        {**row, "group": "a|b", "value": 0.75},
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), run / "evaluation.parquet")
    card = model_card.write(run).read_text()
    assert "| lfw | accuracy | 0.8625 | 0.8400 to 0.8800 |  | 10-fold |" in card
    assert "| lfw | accuracy_std | not measured |  |  | 10-fold |" in card
    assert r"| lfw | accuracy | 0.7500 |  | a\|b | 10-fold |" in card
    assert "0.1234" not in card
    assert "Without intervals" not in card


def test_an_export_is_told(run: Path, tmp_path: Path) -> None:
    written = export.export(run, tmp_path / "model.onnx")
    card = (run / "model_card.md").read_text()
    assert f"| sha256 | {sha256(written.file)} |" in card
    assert f"| threshold | {written.threshold} |" in card
    assert "float32 (batch, 3, 64, 64), RGB, (x - 127.5) / 127.5 |" in card


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"kind": "recordio", "name": "faces_emore"}, "probably MS-Celeb-1M .* withdrew the set"),
        ({"kind": "recordio", "name": "ms1m-retinaface-t1"}, "probably MS-Celeb-1M"),
        ({"kind": "recordio", "name": "faces_webface_112x112"}, "probably CASIA-WebFace"),
        ({"kind": "recordio", "name": "WebFace4M"}, "probably WebFace260M .* agreement"),
        ({"kind": "recordio", "name": "glint360k"}, "probably Glint360K"),
        ({"kind": "recordio", "name": "lfw_train"}, "probably LFW"),
        ({"kind": "synthetic", "name": "synthetic"}, "drawn by a program and show nobody"),
        ({"kind": "folder", "name": "staff"}, "is not known to facerec"),
    ],
)
def test_what_the_source_means(
    run: Path, made: tuple[Path, Path], source: dict[str, str], words: str
) -> None:
    from facerec.data.shards import Shards

    shards = Shards(made[1])
    before = dict(shards.index)
    try:
        write_json(shards.path / "index.json", {**before, "source": source})
        card = model_card.write(run).read_text()
    finally:
        write_json(shards.path / "index.json", before)
    licence = card.partition("## Licence and provenance")[2].partition("## Use")[0]
    assert re.search(words, licence)
    assert "non-commercial research" in licence


def test_data_that_are_gone_are_said_to_be(
    run: Path, made: tuple[Path, Path], tmp_path: Path
) -> None:
    away = made[1].rename(made[1].with_name("away"))
    try:
        card = model_card.write(run).read_text()
    finally:
        away.rename(made[1])
    assert "Training shards `toy`: not there when this card was written." in card
    with pytest.raises(ConfigError):
        model_card.write(tmp_path / "nothing")


def finding(place: Path, **more: object) -> leaks.Leaks:
    """A finding about a set of which 3 images leak."""
    return leaks.Leaks(
        **{
            "name": place.name,
            "index_sha256": sha256(place / "index.json"),
            **{"split": "", "images": 16_000, "identical": 2, "near": 1},
            **{"identities": None, "shared": None, "remark": "identities are unknown"},
            **{"examples": [], "shared_examples": []},
            **{"distance": 6, "correlation": 0.95, "tool": "facerec"},
            **more,
        }
    )


def test_the_card_tells_leaks_and_what_was_not_checked(
    run: Path, made: tuple[Path, Path], toy_pairs: Path
) -> None:
    shards = made[1]
    card = model_card.write(run).read_text()
    command = f"not checked: python -m data_prep leaks {shards}"
    assert f"- val: leaks: {command}\n- pairs: leaks: {command} {toy_pairs}\n" in card
    clean = {"identical": 0, "near": 0, "identities": 20, "shared": 0, "remark": ""}
    leaks.write(shards, [finding(toy_pairs), finding(shards, name="val", split="val", **clean)])
    try:
        card = model_card.write(run).read_text()
    finally:
        (shards / "leaks.json").unlink()
    told = "of 16,000 images identical or near-identical to training images"
    assert f"- val: leaks: 0 {told}\n" in card
    assert (
        f"- pairs: leaks: 3 {told}; identity names could not be compared "
        "(identities are unknown)\n" in card
    )
