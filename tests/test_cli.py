from __future__ import annotations

from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from facerec import history
from facerec.cli import main
from facerec.config import flatten, load
from facerec.losses import LOSSES, table

WORDS = [
    "data.batch_size=20",
    "backbone.name=tiny",
    "head.embedding_size=32",
    "loss.name=cosface",
    "loss.scale=16",
    "loss.margin=0.1",
    "optimizer.lr=0.05",
    "epochs=2",
]


@pytest.fixture(scope="module")
def run(toy_shards: Path, toy_pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "cosface"
    words = [*WORDS, f"data.train={toy_shards}", f"data.eval={toy_pairs}"]
    assert main(["train", *words, "--run", str(folder)]) == 0
    return folder


def test_evaluate_gives_the_numbers_of_the_run_s_last_row(
    run: Path, toy_shards: Path, toy_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "measured"
    assert main(["evaluate", str(run), str(toy_shards), str(toy_pairs), "--out", str(out)]) == 0
    table = pq.read_table(out / "evaluation.parquet")
    measured = {
        f"{row['set']}.{row['metric']}": row["value"]
        for row in table.to_pylist()
        if row["fold"] is None
    }
    last = history.read(run)[-1]
    reported = {name: value for name, value in last.items() if name in measured}
    assert {"val.tar", "pairs.accuracy"} <= reported.keys()
    assert measured == reported
    folds = [row for row in table.to_pylist() if row["fold"] is not None]
    assert [row["fold"] for row in folds] == list(range(10))
    text = capsys.readouterr().out
    assert f"{measured['pairs.accuracy']:.4f}" in text
    assert "impostor pairs" in text
    assert pyarrow.csv.read_csv(out / "evaluation.csv").num_rows == table.num_rows
    accuracy = next(row for row in table.to_pylist() if row["metric"] == "accuracy")
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    assert main(["evaluate", str(run), str(toy_pairs), "--draws", "0", "--out", str(out)]) == 0
    assert pq.read_table(out / "evaluation.parquet")["low"].null_count == 13


def test_a_model_is_not_better_than_itself(
    run: Path, toy_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(run), str(run), str(toy_pairs), "--out", str(tmp_path / "scores")]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "not distinguishable by pairs.accuracy: +0.0000" in text
    assert "better" not in text
    kept = list((tmp_path / "scores").rglob("*.parquet"))
    assert len(kept) == 2
    assert main(["compare", str(run), str(tmp_path / "none"), str(toy_pairs)]) == 2
    assert "no such run folder" in capsys.readouterr().err


def test_the_same_command_resumes_and_another_config_is_refused(
    run: Path, toy_shards: Path, toy_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, f"data.train={toy_shards}", f"data.eval={toy_pairs}", "--run", str(run)]
    before = history.read(run)
    assert main(["train", *words]) == 0
    assert "resumes from step 12" in capsys.readouterr().out
    assert main(["train", "--run", str(run)]) == 0  # the config is known
    assert "finished at step 12: nothing is left to train" in capsys.readouterr().out
    assert history.read(run) == before
    assert main(["train", *words, "loss.gradient=exact"]) == 2
    assert main(["train", *words[:-2], "seed=5", "--run", str(run)]) == 2
    assert "seed = 5: the run in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["evaluate", "{missing}", "{shards}"], "no such run folder"),
        (["evaluate", "{shards}", "{shards}"], "not a run folder"),
        (["evaluate", "{run}", "{missing}"], "missing"),
        (["evaluate", "{run}", "{run}"], "index.json"),
        (["evaluate", "{run}", "{shards}", "--out", "/proc/none"], "--out /proc/none"),
        (["evaluate", "{run}", "{shards}", "--rule", "exact"], "'nearest', 'not-exceeding'"),
        (["evaluate", "{run}", "{shards}", "--plots"], "--plots: needs --out DIR"),
        (["evaluate", "{run}", "{shards}", "--features", "{tmp}/f"], "none of the sets has distr"),
        (["evaluate", "{run}", "{shards}", "--draws", "-1"], "takes a whole number of draws"),
        (["compare", "{run}", "{run}", "{shards}", "--draws", "0"], "--draws 0: a comparison"),
        (["train", "loss.margn=1"], "loss.margn"),
        (["train", "preset=latop"], "Did you mean laptop?"),
        (["train", "--run", "{tmp}/new"], "data.train"),
        (["train", "data.train={missing}", "--run", "{tmp}/new"], "missing"),
        (["train", "data.train={shards}", "--run", "/proc/none"], "--run /proc/none"),
        (["evaluate", "{missing}.onnx", "{shards}"], "no such model file"),
        (["export", "{shards}", "{tmp}/m.onnx"], "not a run folder"),
        (["export", "{run}", "{tmp}/m.onxx"], "ends in .onnx"),
        (["export", "{run}", "{missing}/m.onnx"], "there is no folder"),
        (["export", "{run}", "/proc/m.onnx"], "/proc/m.onnx: cannot be written"),
        (["export", "{run}", "{tmp}/m.onnx", "--target", "mrf"], "Did you mean mfr?"),
        (["export", "{run}", "{tmp}/m.onnx", "--far", "1e-9"], "--far = '1e-9': takes 1e-5"),
        (["embed", "{run}", "{missing}", "{tmp}/out.parquet"], "no such folder of images"),
        (["embed", "{run}", "{run}", "{tmp}/out.parquet"], "holds no images"),
        (["embed", "{run}", "{shards}", "{tmp}/out.parquet", "--split", "dev"], "no dev split"),
        (["embed", "{run}", "{shards}", "{missing}/out.parquet"], "cannot be written"),
        (["verify", "{run}", "{missing}", "{missing}"], "missing: cannot be read"),
    ],
)
def test_what_a_user_can_mend_ends_with_one_line_and_status_2(
    run: Path,
    toy_shards: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    words: str,
) -> None:
    places = {"run": run, "shards": toy_shards, "tmp": tmp_path, "missing": tmp_path / "missing"}
    assert main([word.format(**places) for word in command]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error


def test_a_preset_is_a_base_that_keys_change(toy_shards: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["preset=laptop", f"data.train={toy_shards}", "epochs=1", "loss.name=arcface"]
    assert main(["train", *words, "--run", str(run)]) == 0
    saved = flatten(load(run / "config.json"))
    assert saved["backbone.name"] == "tiny"
    assert saved["optimizer.schedule"] == "one_cycle"
    assert (saved["loss.name"], saved["loss.margin"], saved["epochs"]) == ("arcface", 0.5, 1.0)


def test_losses_lists_every_loss_and_keyword(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["losses"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in LOSSES)
    assert "loss.bias_init" in text
    assert "AdaFace: Quality Adaptive Margin" in text
    assert main(["losses", "--markdown"]) == 0
    assert capsys.readouterr().out == table.markdown()
