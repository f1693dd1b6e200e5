"""Plots of what was measured: ROC, DET, score histograms, CMC, and TPIR over FPIR.

What cannot be drawn is said in its plot. Where a curve rests on few errors it is dotted.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import special

from facerec.data.writer import write_bytes
from facerec.evaluation import axes
from facerec.evaluation.curves import Curves, ScoreCounts
from facerec.evaluation.identification import RANKS, cmc

Floats = NDArray[np.float64]

_BLUE, _ORANGE, _GREY = "#0072B2", "#E69F00", "#666666"
# Colours tell apart for the colour-blind, dashes in greyscale; pairs of both repeat after 35.
_COLOURS = (_BLUE, "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", _ORANGE)
_DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (8, 2, 1, 2, 1, 2)), (0, (3, 1)))
_LONGEST = 50  # letters of a name in a legend


def draw(curves: Sequence[Curves], folder: Path) -> list[Path]:
    """Draws what each protocol gave into a folder, as PNG of 960 x 720 pixels or higher.

    `<set>.roc.png`, `<set>.det.png` and `<set>.scores.png` where there are scores of pairs,
    `<set>.cmc.png` where there are ranks, `<set>.dir.png` (detection and identification rate, which
    is TPIR, over FPIR) where it is known; `roc.png` with all sets where several have scores. A name
    that occurs again is numbered.

    Args:
        curves: One per set and protocol.
        folder: Where to. It exists; files of these names are replaced.

    Returns:
        The files.
    """
    paths: list[Path] = []
    with style.context(axes.STYLE, after_reset=True):
        for one in curves:
            for kind, figure in _figures(one):
                path, number = folder / f"{one.name}.{kind}.png", 2
                while path in paths:
                    path, number = folder / f"{one.name}-{number}.{kind}.png", number + 1
                paths.append(_save(figure, path))
        paired = [(one.name, one.counts) for one in curves if one.counts is not None]
        if len(paired) > 1:
            paths.append(_save(_all_rocs(paired), folder / "roc.png"))
    return paths


def _figures(one: Curves) -> Iterator[tuple[str, Figure]]:
    if one.counts is not None:
        yield "roc", _roc(one, one.counts)
        yield "det", _det(one, one.counts)
        yield "scores", _scores(one, one.counts)
    if one.match_ranks is not None:
        yield "cmc", _cmc(one, np.asarray(one.match_ranks))
    if one.tpir is not None:
        yield "dir", _dir(one, *(np.asarray(kind, np.float64) for kind in one.tpir))


def _save(figure: Figure, path: Path) -> Path:
    axes.legend(figure)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")  # of a set's name, in no font here
        figure.savefig(content, format="png", dpi=150)
    write_bytes(path, content.getvalue())
    return path


def _roc(one: Curves, counts: ScoreCounts) -> Figure:
    figure, axis = axes.page(f"{one.name}: ROC", one.protocol, _pairs(counts))
    if _one_kind(axis, counts):
        return figure
    far, tar = counts.best()
    left = min(float(far[0]), 0.1)
    axes.line(axis, far, tar, far * counts.impostor_pairs, "false accepts", color=_BLUE)
    marks = _known(one.marks)
    axes.log_axis(axis, left, "false accept rate (FAR)")
    axes.share_axis(axis, [*tar.tolist(), *marks.values()], "true accept rate (TAR)")
    # A protocol may give identities equal weights: its rates are not those of the pairs.
    apart = [abs(y - np.interp(x, far, tar)) > 0.01 for x, y in marks.items()]
    axes.dots(axis, marks, "in the table" + (", weighted as said above" if any(apart) else ""))
    return figure


def _all_rocs(sets: Sequence[tuple[str, ScoreCounts]]) -> Figure:
    figure, axis = axes.page(f"ROC of {len(sets)} sets", "", "")
    left, shown = 0.1, [1.0]
    for number, (name, counts) in enumerate(sets):
        look = {"color": _COLOURS[number % 7], "linestyle": _DASHES[number % 5]}
        far, tar = counts.best()
        name = name if len(name) < _LONGEST else f"{name[: _LONGEST - 1]}…"
        if not len(far):
            name += " (no curve)"
        # A label that begins with an underscore would be left out of the legend.
        wrong = far * counts.impostor_pairs
        axes.line(axis, far, tar, wrong, "false accepts", label=f" {name}", **look)
        left, shown = min([left, *far[:1].tolist()]), [*shown, *tar.tolist()]
    axes.log_axis(axis, left, "false accept rate (FAR)")
    axes.share_axis(axis, shown, "true accept rate (TAR)")
    return figure


def _det(one: Curves, counts: ScoreCounts) -> Figure:
    figure, axis = axes.page(f"{one.name}: DET", one.protocol, _pairs(counts))
    if _one_kind(axis, counts):
        return figure
    far, tar = counts.best()
    missed = 1 - tar
    rate, threshold = counts.eer
    label = f"EER {100 * rate:.3g} %, at cosine {threshold:.3f}"
    inside = (far < 1) & (missed > 0) & (missed < 1)
    if not inside.any():
        why = "No threshold has both false accepts and false rejects: there is no curve."
        axes.say(axis, f"{label}. {why}")
        return figure
    far, missed = far[inside], missed[inside]
    errors = np.minimum(far * counts.impostor_pairs, missed * counts.genuine_pairs)
    x, y = special.ndtri(far), special.ndtri(missed)
    axes.line(axis, x, y, errors, "false accepts or false rejects", color=_BLUE)
    if 0 < rate < 1:
        equal = special.ndtri(rate)
        axis.axline((equal, equal), slope=1, color=_GREY, linewidth=1, linestyle="--", zorder=1)
        axis.plot(equal, equal, "o", color="black", label=label, zorder=4)
    right, top = max(0.5, min(2 * rate, 0.999)), max(0.5, min(float(missed.max()), 0.999))
    low_x, low_y = min(float(far[0]), rate), min(float(missed[far <= right].min(initial=1)), rate)
    axes.deviate_axis(axis, "x", low_x, right, "false accept rate (FAR)")
    axes.deviate_axis(axis, "y", low_y, top, "false reject rate (1 - TAR)")
    return figure


def _scores(one: Curves, counts: ScoreCounts) -> Figure:
    figure, axis = axes.page(f"{one.name}: scores", one.protocol, _pairs(counts))
    edges, genuine, impostors = counts.densities()
    both = np.stack([genuine, impostors])
    if not both.any():
        axes.say(axis, "No pair has a score: there is no histogram.")
        return figure
    peak, overlap, low = float(both.max()), float(both.min(axis=0).max()), 0.0
    if 0 < overlap < 0.1 * peak:  # on a linear axis it would not be seen
        low = float(both[both > 0].min()) / 2
        axes.plain_log(axis, "y")
    looks = {"genuine": (_BLUE, "-"), "impostor": ("#B35900", "--")}
    for density, (kind, (colour, dash)) in zip(both, looks.items(), strict=True):
        if density.any():
            fill = _BLUE if kind == "genuine" else _ORANGE
            axis.stairs(density, edges, baseline=low, fill=True, color=fill, alpha=0.35)
            look: dict[str, Any] = {"color": colour, "linestyle": dash, "linewidth": 1.8}
            axis.stairs(density, edges, baseline=low, label=f"{kind} pairs", **look)
    spare = max(0.03 * float(edges[-1] - edges[0]), 0.05)
    axis.set_xlim(edges[0] - spare, edges[-1] + spare)
    axis.set_ylim(low, peak * (1.4 if not low else (peak / low) ** 0.35))
    axis.set_xlabel("cosine")
    axis.set_ylabel("density" + (", logarithmic" if low else ""))
    at = {name: counts.threshold(far) for name, (far, _) in one.marks.items()}
    at = {name: place for name, place in at.items() if not math.isnan(place)}
    before, level = -math.inf, 0.985
    for name, place in sorted(at.items(), key=lambda item: item[1]):
        close = place - before < 0.05 * float(edges[-1] - edges[0])
        before, level = place, 0.74 if close and level > 0.9 else 0.985
        axes.upright(axis, f"FAR {name}", place, level)
    return figure


def _cmc(one: Curves, ranks: NDArray[np.int64]) -> Figure:
    figure, axis = axes.page(f"{one.name}: CMC", one.protocol, f"{len(ranks):,} searches")
    if not len(ranks):
        axes.say(axis, "No probe has a rank: there is no CMC curve.")
        return figure
    longest = one.longest or max(int(ranks.max()), max(RANKS))
    shares = cmc(ranks, longest)
    places = np.arange(1, longest + 1, dtype=np.float64)
    axes.line(axis, places, shares, None, "", color=_BLUE)
    axes.log_axis(axis, 1, "rank", max(longest, 2))
    axes.share_axis(axis, shares.tolist(), "share of mates found\nup to this rank")
    marks = {float(rank): float(shares[rank - 1]) for rank in RANKS if rank <= longest}
    axes.dots(axis, marks, "rank " + ", ".join(f"{rank:g}" for rank in marks))
    return figure


def _dir(one: Curves, fpir: Floats, tpir: Floats) -> Figure:
    probes = 0 if one.match_ranks is None else len(one.match_ranks)
    told = f"{probes:,} searches" if probes else ""
    figure, axis = axes.page(f"{one.name}: identification", one.protocol, told)
    usable = np.isfinite(fpir) & np.isfinite(tpir) & (fpir > 0)
    if not usable.any():
        axes.say(axis, "No threshold has a false positive: there is no curve.")
        return figure
    order = np.lexsort((tpir[usable], fpir[usable]))
    x, y = fpir[usable][order], tpir[usable][order]
    axes.line(axis, x, y, x * probes if probes else None, "false positives", color=_BLUE)
    marks = _known(one.marks) if one.counts is None else {}
    axes.log_axis(axis, min(float(x[0]), 0.1), "false positive identification rate (FPIR)")
    axes.share_axis(
        axis, [*y.tolist(), *marks.values()], "true positive\nidentification rate (TPIR)"
    )
    axes.dots(axis, marks, "in the table")
    return figure


def _pairs(counts: ScoreCounts) -> str:
    told = f"{counts.genuine_pairs:,} genuine and {counts.impostor_pairs:,} impostor pairs"
    return told + (f"; {counts.skipped:,} without a score left out" if counts.skipped else "")


def _known(marks: Mapping[str, tuple[float, float]]) -> dict[float, float]:
    return {x: y for x, y in marks.values() if math.isfinite(x) and math.isfinite(y)}


def _one_kind(axis: Axes, counts: ScoreCounts) -> bool:
    if counts.genuine_pairs and counts.impostor_pairs:
        return False
    kind = "genuine" if counts.impostor_pairs else "impostor"
    axes.say(axis, f"There are no {kind} pairs: there is no curve.")
    return True
