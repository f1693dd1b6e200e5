"""What a sweep comes to: whom the judge is given, who wins, what is written, which run is best."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from facerec.config import override
from facerec.data import leaks
from facerec.tuning import confirm, judgement, results, told
from facerec.tuning.judgement import conclude, seeds_error, typical
from facerec.tuning.measured import Measured
from facerec.tuning.messages import DIVERGED
from facerec.tuning.search import JournalSearcher
from facerec.tuning.sweep import Sweep
from facerec.tuning.verdict import Arm
from tests.tuning.conftest import Open, small_base, small_sweep
from tests.tuning.test_search import ask, epoch, finish

# Number of a training -> val.tar: settings defaults, 1, 2 with seeds 2, 3, 4 in turn.
SEEN = {0: 0.50, 1: 0.60, 2: 0.71, 3: 0.52, 4: 0.63, 5: 0.70, 6: 0.54, 7: 0.61, 8: 0.72}
UNSEEN = {0: 0.40, 1: 0.55, 2: 0.50, 3: 0.41, 4: 0.56, 5: 0.51, 6: 0.42, 7: 0.57, 8: 0.52}


@pytest.fixture
def searched(open_searcher: Open, toy_shards: Path) -> JournalSearcher:
    """A search of three trials: the paper's values, then two that are better."""
    sweep = small_sweep(small_base(toy_shards), trials=3, confirm=2, seeds=3)
    searcher = open_searcher(sweep)
    for n in range(3):
        ask(searcher, str(n))
        finish(searcher, str(n), 0.5 + n / 10)
    return searcher


class Confirmed:
    """A confirmation that ran, and scores that its models have on `confirm`."""

    def __init__(
        self,
        searcher: JournalSearcher,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        diverged: Sequence[int] = (),
        scores: Mapping[int, float] = UNSEEN,
        split: str = "confirm",
    ) -> None:
        self.sweep: Sweep = searcher.sweep
        self.searcher, self.folder = searcher, folder
        self.runs = confirm.plan(self.sweep, searcher.rows())
        confirm.write_plan(folder, self.runs)
        again = confirm.open_searcher(self.sweep, folder, self.runs, "abc")
        for number in range(len(self.runs)):
            ask(again, str(number))
            run = folder / results.run_folder(number, results.CONFIRM_RUNS)
            run.mkdir()
            (run / "config.json").write_text(str(number))
            if number in diverged:
                again.on_trial_complete(str(number), epoch(1, 0.0, DIVERGED, "nan_loss"))
            else:
                finish(again, str(number), SEEN[number])
        self.tables = confirm.ConfirmTables(folder, again, self.runs)
        self.given: dict[str, Arm] = {}

        def measure(sweep: Sweep, folder: Path, table: Any, *, gpus: bool) -> Measured:
            done = table.loc[table["status"] == "completed", "trial"]
            known = {n: {f"{split}.tar": scores[n]} for n in done if n in scores}
            return Measured(split, f"{split}.tar", known, 20)

        judge = judgement.judge

        def watched(defaults: Arm, candidates: Sequence[Arm], *rest: Any, **more: Any) -> Any:
            self.given = {arm.name: arm for arm in (defaults, *candidates)}
            return judge(defaults, candidates, *rest, **more)

        monkeypatch.setattr(judgement, "measure", measure)
        monkeypatch.setattr(judgement, "judge", watched)

    def conclude(self, **more: Any) -> dict[str, Any]:
        conclude(self.sweep, self.folder, self.searcher, self.runs, self.tables, gpus=False, **more)
        return results.verdict(self.folder)


def test_settings_are_judged_by_what_the_search_never_saw(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed = Confirmed(searched, tmp_path, monkeypatch)
    found = confirmed.conclude()
    assert {n: arm.seeds for n, arm in confirmed.given.items()} == dict.fromkeys(
        ("defaults", "1", "2"), (2, 3, 4)
    )
    assert confirmed.given["1"].scores.tolist() == [0.55, 0.56, 0.57]
    assert confirmed.given["1"].seconds.tolist() == [4.0] * 3
    # By val, setting 2 would have won.
    assert found["winner"] == "1"
    rows = {row["setting"]: row for row in found["settings"]}
    assert {name: row["rank"] for name, row in rows.items()} == {"defaults": 3, "1": 1, "2": 2}
    assert rows["1"]["effect"] == pytest.approx(0.15)
    assert rows["1"]["low"] < 0.15 < rows["1"]["high"]
    assert rows["1"]["repeats"] == 2
    assert rows["defaults"]["mean"] == pytest.approx(0.41)
    assert "effect" not in rows["defaults"]
    assert rows["1"]["sentence"] == found["sentence"]
    # The seed whose val.tar is the median: 0.60, 0.61, 0.63.
    assert found["best"] == "checkpoints/confirm/7"
    assert (tmp_path / "best" / "config.json").read_text() == "7"
    table = results.load_confirm(tmp_path)
    assert table["confirm.tar"].tolist() == list(UNSEEN.values())
    assert table["rank"].tolist() == [3, 1, 2] * 3
    assert found["ended"]["search"]["status"] == {"completed": 3}
    assert found["ended"]["confirm"]["seconds"] == 36.0
    assert {row["key"] for row in found["importance"]} == set(confirmed.sweep.space)
    assert {row["key"] for row in found["good_region"]} == set(confirmed.sweep.space)
    json.loads((tmp_path / results.VERDICT).read_text(), parse_constant=pytest.fail)  # no NaN


def test_what_earlier_sweeps_repeated_tells_how_far_seeds_differ(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed = Confirmed(searched, tmp_path, monkeypatch)
    alone = confirmed.conclude()["settings"]
    again = [
        {"setting": {}, "seeds": [8, 9, 10], "metrics": {"confirm.tar": scores}}
        for scores in ([0.3, 0.31, 0.32], [0.62, 0.6, 0.61], [0.5, 0.49, 0.51])
    ]
    known = confirmed.conclude(repeats=again)["settings"]
    for row, before in zip(known[1:], alone[1:], strict=True):
        assert row["effect"] == before["effect"]
        # All settings here differ alike in each seed: by luck, as the earlier ones show.
        assert before["low"] == pytest.approx(before["effect"])
        assert row["low"] < row["effect"] - 0.005
    other = {"setting": {}, "seeds": [8, 9], "metrics": {"val.tar": [0.0, 1.0]}}
    assert confirmed.conclude(repeats=[*again, other])["settings"] == known


def test_a_setting_that_broke_down_is_no_winner_by_its_other_seeds(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    confirmed = Confirmed(searched, tmp_path, monkeypatch, diverged=[4])
    found = confirmed.conclude()
    assert confirmed.given["1"].seeds == (2, 4)
    assert found["winner"] == "2"
    rows = {row["setting"]: row for row in found["settings"]}
    assert [rows[name]["rank"] for name in ("2", "defaults", "1")] == [1, 2, 3]
    assert rows["1"]["diverged"] == 1
    assert found["ended"]["confirm"]["reasons"] == {"nan_loss": 1}


@pytest.mark.slow
def test_the_papers_values_may_be_the_confirmed_winner(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = {n: value + (0.5 if n % 3 == 0 else 0.0) for n, value in UNSEEN.items()}
    found = Confirmed(searched, tmp_path, monkeypatch, scores=scores).conclude()
    assert found["winner"] == "defaults"
    assert found["best"] == "checkpoints/confirm/3"
    assert found["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", ""])
def test_a_verdict_on_what_the_search_saw_says_so(
    split: str, searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Confirmed(searched, tmp_path, monkeypatch, split=split).conclude()
    assert "which the search saw" in found["sentence"]


@pytest.mark.slow
def test_without_any_score_there_is_no_verdict_and_best_stays(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Confirmed(searched, tmp_path, monkeypatch, scores={}).conclude()
    assert (found["winner"], found["best"]) == ("", "")
    assert "there is no verdict" in found["sentence"]
    assert not (tmp_path / "best").exists()


@pytest.mark.slow
def test_a_confirmation_left_out_keeps_the_earlier_verdict(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Confirmed(searched, tmp_path, monkeypatch).conclude()
    sweep = small_sweep(searched.sweep.base, trials=3, confirm=0)
    conclude(sweep, tmp_path, searched, [], None, gpus=False)
    again = results.verdict(tmp_path)
    for key in ("settings", "winner", "best", "sentence"):
        assert again[key] == first[key]
    assert again["confirm"] == 0


def test_nothing_to_confirm_is_said(searched: JournalSearcher, tmp_path: Path) -> None:
    conclude(searched.sweep, tmp_path, searched, [], None, gpus=False)
    assert "nothing was confirmed" in results.verdict(tmp_path)["sentence"]


def test_the_seeds_error_is_pooled_and_the_typical_run_is_the_lower_median(
    searched: JournalSearcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Confirmed(searched, tmp_path, monkeypatch, diverged=[8]).tables.write()
    squares = sum(
        sum((SEEN[n] - sum(SEEN[m] for m in own) / len(own)) ** 2 for n in own)
        for own in ((0, 3, 6), (1, 4, 7), (2, 5))
    )
    assert seeds_error(table, "val.tar") == pytest.approx(math.sqrt(squares / 5))
    assert math.isnan(seeds_error(table[table["seed"] == 2], "val.tar"))
    assert typical(table, "2", "val.tar") == "checkpoints/confirm/5"  # 0.70 and 0.71


def test_leaks_are_told_and_so_is_what_was_not_checked(
    searched: JournalSearcher, toy_shards: Path, toy_pairs: Path, tmp_path: Path
) -> None:
    train = Path(shutil.copytree(toy_shards, tmp_path / "train"))
    other = Path(shutil.copytree(toy_pairs, tmp_path / "other"))
    (other / "index.json").write_bytes((toy_pairs / "index.json").read_bytes() + b"\n")
    base = override(
        searched.sweep.base, {"data.train": str(train), "data.eval": f"{toy_pairs},{other}"}
    )
    rest: dict[str, Any] = {
        **{"identities": None, "shared": None, "remark": "names are numbers"},
        **{"examples": [], "shared_examples": [], "distance": 6, "correlation": 0.95, "tool": ""},
    }
    own = leaks.Leaks("val", leaks.index_sha256(train), "val", 200, 0, 0, **rest)
    leaks.write(
        train, [own, leaks.Leaks("pairs", leaks.index_sha256(toy_pairs), "", 160, 4, 1, **rest)]
    )
    found = conclude(
        small_sweep(base, trials=3, confirm=0), tmp_path, searched, [], None, gpus=False
    )
    assert [row["set"] for row in found["leaks"]] == ["pairs", "other", "val"]
    assert [row["checked"] for row in found["leaks"]] == [True, False, True]
    assert [row["found"] for row in found["leaks"]] == [True, False, False]
    assert results.verdict(tmp_path)["leaks"] == found["leaks"]
    lines = [line for line in told.lines(found) if "near-identical" in line or "checked" in line]
    assert lines == [
        "leaks      pairs: 5 of 160 images identical or near-identical to training images; "
        "identity names could not be compared (names are numbers)",
        f"           other: not checked: python -m data_prep leaks {train} {other}",
    ]
