"""The plots: what stands where in them, and that nothing which can be measured breaks them."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from scipy import stats

from facerec.evaluation import axes, plots
from facerec.evaluation.curves import Curves, count_scores

NONE = np.empty(0, np.int64)


def scored(genuine: int, impostors: int, seed: int = 0, name: str = "faces") -> Curves:
    generator = np.random.default_rng(seed)
    scores = generator.normal(0.4, 0.15, genuine), generator.normal(0, 0.12, impostors)
    same = np.arange(genuine + impostors) < genuine
    counts = count_scores(np.concatenate(scores).clip(-1, 1), same)
    return Curves(name, "1:1 v1, flip=on", counts, None, None, {})


def searched(ranks: list[int], longest: int | None = None) -> Curves:
    return Curves("faces", "1:N v1", None, np.array(ranks, np.int64), None, {}, longest)


def lines(figure: Figure) -> dict[str, Line2D]:
    """Those with a label, and the dotted and solid part of the curve."""
    found = {}
    for line in figure.axes[0].get_lines():
        kind = "dotted" if line.get_linestyle() == ":" else "solid"
        label = str(line.get_label())
        if label.startswith("_") and line.get_linestyle() == "--":
            continue  # the diagonal
        found[kind if label.startswith("_") else label] = line
    return found


def points(line: Line2D) -> NDArray[np.float64]:
    """Those that are drawn: (K, 2)."""
    both = np.stack([np.asarray(part, np.float64) for part in line.get_data()], axis=1)
    return both[~np.isnan(both).any(axis=1)]


def words(figure: Figure) -> str:
    axis = figure.axes[0]
    return " | ".join([text.get_text() for text in axis.texts] + [axis.get_title(loc="left")])


def test_a_roc_curve_is_dotted_where_it_rests_on_few_false_accepts() -> None:
    one = scored(300, 4000)
    assert one.counts is not None
    ((_, figure), *_) = plots._figures(one)
    found, (far, tar) = lines(figure), one.counts.best()
    solid, dotted = points(found["solid"]), points(found["dotted"])
    reliable = np.round(far * 4000) >= 10
    assert np.array_equal(solid, np.stack([far, tar], axis=1)[reliable])
    assert np.array_equal(dotted[:-1], np.stack([far, tar], axis=1)[~reliable])
    assert np.array_equal(dotted[-1], solid[0])  # they join
    assert "fewer than 10 false accepts: unreliable" in found
    assert figure.axes[0].get_xlim()[0] == pytest.approx(1 / 4000, rel=0.2)
    assert figure.axes[0].get_xscale() == "log"
    assert "300 genuine and 4,000 impostor pairs" in words(figure)


@pytest.mark.parametrize(("tar", "label"), [(0.0, "in the table"), (-0.2, "weighted as said")])
def test_points_of_the_table_stand_with_their_values(tar: float, label: str) -> None:
    one = scored(300, 4000)
    assert one.counts is not None
    far, tars = one.counts.best()
    tar += float(np.interp(0.01, far, tars))
    marks = {"1e-2": (0.01, tar), "1e-6": (math.nan, math.nan), "1e-5": (0.0, 0.25)}
    figure = plots._roc(Curves("faces", "", one.counts, None, None, marks), one.counts)
    (dots,) = [line for name, line in lines(figure).items() if "in the table" in name]
    assert (label in str(dots.get_label())) or tar == 0
    assert sorted(points(dots)[:, 1]) == sorted([0.25, tar])
    assert f"{tar:.4g}" in words(figure)
    assert "0.25 at rate 0" in words(figure)


def test_a_det_curve_has_normal_deviates_and_the_equal_error() -> None:
    one = scored(500, 2000)
    assert one.counts is not None
    figure = plots._det(one, one.counts)
    found = lines(figure)
    far, tar = one.counts.best()
    inside = (tar < 1) & (far < 1)
    wanted = stats.norm.ppf(np.stack([far, 1 - tar], axis=1)[inside])
    drawn = np.concatenate([points(found["solid"]), points(found["dotted"])])
    assert {tuple(p) for p in np.round(drawn, 9)} == {tuple(p) for p in np.round(wanted, 9)}
    rate, threshold = one.counts.eer
    label = f"EER {100 * rate:.3g} %, at cosine {threshold:.3f}"
    assert points(found[label]).tolist() == [[pytest.approx(stats.norm.ppf(rate))] * 2]
    axis = figure.axes[0]
    for own in (axis.xaxis, axis.yaxis):
        places = own.get_majorticklocs()
        texts = [float(text.get_text()) for text in own.get_ticklabels()]
        assert len(places) >= 4
        assert np.allclose(stats.norm.cdf(places), texts)


def test_thresholds_of_the_table_are_lines_between_the_histograms() -> None:
    counts = scored(300, 4000).counts
    assert counts is not None
    marks = {"1e-2": (0.01, 0.9), "1e-3": (0.001, 0.5)}
    figure = plots._scores(Curves("faces", "", counts, None, None, marks), counts)
    vertical = [points(line)[0, 0] for line in figure.axes[0].get_lines()]
    assert sorted(vertical) == [counts.threshold(0.01), counts.threshold(0.001)]
    assert "FAR 1e-2" in words(figure)
    assert "FAR 1e-3" in words(figure)


@pytest.mark.parametrize(("genuine", "scale"), [(0.2, "linear"), (0.7, "log")])
def test_a_small_overlap_is_seen(genuine: float, scale: str) -> None:
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.normal(genuine, 0.1, 3000), generator.normal(0, 0.1, 3000)])
    scores[0] = 0.1  # one genuine pair among the impostors
    counts = count_scores(scores.clip(-1, 1), np.arange(6000) < 3000)
    axis = plots._scores(Curves("faces", "", counts, None, None, {}), counts).axes[0]
    assert axis.get_yscale() == scale


@pytest.mark.parametrize(("longest", "end"), [(None, 12), (6, 6)])
def test_a_cmc_curve_ends_where_ranks_are_no_longer_told_apart(
    longest: int | None, end: int
) -> None:
    ranks = [1, 1, 2, 3, 7, 12]
    ((kind, figure),) = plots._figures(searched(ranks, longest))
    shares = [sum(rank <= place for rank in ranks) / len(ranks) for place in range(1, end + 1)]
    assert kind == "cmc"
    assert points(lines(figure)["solid"])[:, 0].tolist() == list(range(1, end + 1))
    assert np.allclose(points(lines(figure)["solid"])[:, 1], shares)


def test_a_curve_of_tpir_is_dotted_below_ten_false_positives() -> None:
    rates = np.arange(1, 100) / 100
    one = Curves(
        "faces", "1:N v1", None, np.ones(200, np.int64), (rates, rates**0.1), {"0.1": (0.1, 0.8)}
    )
    figure = dict(plots._figures(one))["dir"]
    assert points(lines(figure)["solid"])[0, 0] == 0.05  # of 200 searches
    assert points(lines(figure)["in the table"]).tolist() == [[0.1, 0.8]]


@pytest.mark.parametrize(
    ("scores", "same", "says"),
    [
        ([0.5, 0.6], [True, True], "There are no impostor pairs"),
        ([0.5, 0.6], [False, False], "There are no genuine pairs"),
        ([math.nan] * 4, [True, False] * 2, "4 without a score left out"),
        ([], [], "No pair has a score"),
        ([0.9, 0.8, 0.1], [True, True, False], "EER 0 %, at cosine 0.450. No threshold"),
        ([1.0, 1.0], [True, False], "EER 50 %"),
    ],
)
def test_what_cannot_be_drawn_is_said(scores: list[float], same: list[bool], says: str) -> None:
    counts = count_scores(scores, same)
    one = Curves("faces", "", counts, None, None, {"1e-2": (math.nan, math.nan)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = " ".join(words(figure) for _, figure in plots._figures(one))
    assert says in " ".join(said.split())


def test_files_are_whole_and_names_that_recur_are_numbered(tmp_path: Path) -> None:
    curve = (np.array([0.01, 0.1, 1]), np.array([0.5, 0.8, 1]))
    one = Curves("faces $_{ 脸", "1:N v1, flip=on", None, None, curve, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = plots.draw([one, one], tmp_path)
    assert [path.name for path in paths] == ["faces $_{ 脸.dir.png", "faces $_{ 脸-2.dir.png"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # nothing is left aside
    assert imread(paths[0]).shape[:2] == (720, 960)


@pytest.mark.slow
def test_all_kinds_of_plots_are_drawn_without_a_warning(tmp_path: Path) -> None:
    hopeless = count_scores([math.nan] * 3, [True, False, False])
    drawn = [
        scored(400, 30_000, name="large"),
        scored(10, 10, name="tiny"),
        scored(1, 1, name="_least"),
        scored(0, 20, name="apart"),
        Curves("nothing", "", hopeless, NONE, (np.empty(0), np.empty(0)), {"1e-2": (0.01, 0.5)}),
        searched([1, 1, 2, 40]),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = plots.draw(drawn, tmp_path)
    kinds = ("roc", "det", "scores")
    names = [
        f"{name}.{kind}.png" for name in ("large", "tiny", "_least", "apart") for kind in kinds
    ]
    names += [f"nothing.{kind}.png" for kind in (*kinds, "cmc", "dir")]
    assert [path.name for path in paths] == [*names, "faces.cmc.png", "roc.png"]
    for path in paths:
        assert imread(path)[..., :3].min() < 0.5


def test_names_of_all_sets_stand_in_the_common_legend() -> None:
    sets = [(f"{'_' * (k % 2)}set {k}", scored(40, 400, k).counts) for k in range(8)]
    figure = plots._all_rocs([(name, counts) for name, counts in sets if counts is not None])
    looks = {
        (line.get_color(), line.get_linestyle())
        for name, line in lines(figure).items()
        if "set" in name
    }
    axes.legend(figure)
    (legend,) = figure.legends
    texts = [text.get_text().strip() for text in legend.get_texts()]
    assert texts == [*(name for name, _ in sets), "fewer than 10 false accepts: unreliable"]
    assert len(looks) == 8
