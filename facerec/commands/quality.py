"""`facerec quality`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from facerec import checkpoint
from facerec.commands.evaluate import DRAWS, draws, folder
from facerec.data.folder import ImageFiles, images_in
from facerec.data.index import is_prepared
from facerec.data.shards import Shards
from facerec.evaluation.figures.measure import drawn, missing
from facerec.evaluation.quality import RejectCurve, error_versus_reject
from facerec.evaluation.quality_images import (
    Measured,
    QualityImages,
    image_files,
    measure,
    pixels_of,
    prepared_images,
)
from facerec.evaluation.quality_pairs import Compared
from facerec.evaluation.quality_scalars import spearman, spread
from facerec.evaluation.quality_tables import write_curves, write_images
from facerec.evaluation.uncertainty import Interval
from facerec.model import Model, open_confidence, open_model
from facerec.tree import in_section
from facerec.values import one_of

_SHOWN = 5  # keys at either end
_SHARES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}


def run(parser: argparse.ArgumentParser, words: Sequence[str]) -> int:
    """Measure the quality of images, and whether it tells which comparisons fail."""
    _arguments(parser)
    given = parser.parse_intermixed_args(words)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, head = open_model(given.model, device), open_confidence(given.model, device)
    images = _open(given.images, given.split, model)
    names = ["norm", "sharpness"]
    names += ["confidence"] if head is not None else []
    names += ["detector_score"] if images.detector is not None else []
    by = given.by or ("confidence" if head is not None else "norm")
    in_section("", lambda: one_of("--by", by, tuple(names)))
    out = folder(given.out or _default_out(given.model, images.name))
    rows = images.compared_rows()
    confidence = None if head is None else head.confidence
    found = measure(model.backbone, confidence, images, rows, device)
    console = Console()
    _show_scalars(console, images.name, found, by)
    compared, which, who = images.compare(found.vectors, rows)
    scalars = {name: values[compared.rows] for name, values in found.scalars.items()}
    curves = error_versus_reject(scalars, compared, draws=given.draws, seed=given.seed)
    protocol, told = _protocol(compared, which), _counted(compared)
    _show_curves(console, images.name, curves, protocol, told, compared.reason)
    notes = list(model.notes)
    if given.draws and not compared.reason:
        identities = int(compared.identities.max()) + 1
        notes.append(drawn(images.name, given.draws, identities, who))
    for note in notes:
        console.print(note, highlight=False, soft_wrap=True)
    for path in (
        write_images(found.keys, images.labels, images.identities, found.scalars, out),
        *write_curves(images.name, curves, protocol, out),
    ):
        console.print(f"written    {path} (and .csv)", soft_wrap=True)
    for path in _draw(images, found, curves, (protocol, told), by, out):
        console.print(f"drawn      {path}", soft_wrap=True)
    return 0


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=Path, metavar="RUN", help="run folder, ONNX file or public checkpoint"
    )
    parser.add_argument(
        "images", type=Path, metavar="IMAGES", help="prepared shards, or a folder of aligned images"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="default: quality/IMAGES in the run folder; for a model file in the current folder",
    )
    parser.add_argument(
        "--split", help="of prepared shards; default: val where there is one, else train"
    )
    parser.add_argument(
        "--by",
        metavar="SCALAR",
        help="what orders the contact sheet and the keys that are shown: norm, confidence, "
        "sharpness or detector_score; default: confidence where the run learnt it, else norm",
    )
    parser.add_argument("--draws", type=draws, default=DRAWS, help="of identities, for intervals")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")


def _open(place: Path, split: str | None, model: Model) -> QualityImages:
    """The images, all of the model's size."""
    if is_prepared(place):
        shards = Shards(place)
        model.check_aligned(place, *shards.image_size)
        return prepared_images(shards, split)
    files = ImageFiles(place, images_in(place))
    for path, (width, height) in files.sizes():
        model.check_aligned(path, width, height)
    return image_files(place, files)


def _default_out(model: Path, name: str) -> Path:
    """In the run folder, whichever of its checkpoints was named."""
    root = checkpoint.find(model).parent.parent if model.is_dir() else Path()
    return root / "quality" / name


def _protocol(compared: Compared, which: str) -> str:
    threshold = f"{compared.threshold:.4f}" if compared.far else "none"
    return (
        f"error versus reject v1, flip=off, pairs={which}, rule=not exceeding, "
        f"FAR={compared.far or 'none'}, cosine={threshold}"
    )


def _counted(compared: Compared) -> str:
    if compared.reason:
        return ""
    return (
        f"{len(compared.missed):,} genuine pairs of {len(compared.rows):,} images; without "
        f"rejection {int(compared.missed.sum()):,} are refused"
    )


def _show_scalars(console: Console, name: str, found: Measured, by: str) -> None:
    """Where each scalar lies, how they go together, and which images are at the ends."""
    console.print(f"{name}: {len(found.keys):,} images", highlight=False)
    table = Table("scalar", *_SHARES, "not finite")
    for scalar, values in found.scalars.items():
        known = values[np.isfinite(values)]
        cells = ["-"] * len(_SHARES)
        if len(known):
            cells = [f"{value:.4g}" for value in np.quantile(known, list(_SHARES.values()))]
        table.add_row(scalar, *cells, str(len(values) - len(known)))
    console.print(table)
    table = Table("rank correlation (Spearman)", *found.scalars)
    for scalar, values in found.scalars.items():
        cells = [_number(spearman(values, other), "+.2f") for other in found.scalars.values()]
        table.add_row(scalar, *cells)
    console.print(table)
    values = found.scalars[by]
    order, _ = spread(values, len(values))
    for what, rows in (("lowest", order[:_SHOWN]), ("highest", order[::-1][:_SHOWN])):
        keys = ", ".join(f"{found.keys[row]} ({values[row]:.4g})" for row in rows)
        console.print(f"{what} {by}: {keys or 'none is finite'}", highlight=False, soft_wrap=True)


def _show_curves(
    console: Console,
    name: str,
    curves: Sequence[RejectCurve],
    protocol: str,
    told: str,
    reason: str,
) -> None:
    """One row per scalar and area; `quality_areas.parquet` has the intervals of the areas too."""
    console.print()
    console.print(f"{name}: {protocol}", highlight=False, soft_wrap=True)
    if reason:
        console.print(missing(name, reason), highlight=False, soft_wrap=True)
        return
    console.print(f"{name}: {told}", highlight=False, soft_wrap=True)
    table = Table("quality", "rejected", "FNMR", "to random", "95 %", "gain", "helps")
    for curve in curves:
        for area in curve.areas:
            table.add_row(
                curve.quality,
                f"0-{area.up_to} %",
                _number(area.area.value, ".4f"),
                _number(area.difference.value, "+.4f"),
                _ends(area.difference, "+.4f"),
                _number(area.gain, ".2f"),
                area.verdict,
            )
    console.print(table)
    for curve in curves:
        if curve.reason:
            console.print(
                missing(f"{name}, {curve.quality}", curve.reason), highlight=False, soft_wrap=True
            )


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _ends(interval: Interval, form: str) -> str:
    if math.isnan(interval.low):
        return ""
    return f"{interval.low:{form}} to {interval.high:{form}}"


def _draw(
    images: QualityImages,
    found: Measured,
    curves: Sequence[RejectCurve],
    lines: tuple[str, str],
    by: str,
    out: Path,
) -> list[Path]:
    from facerec.evaluation import quality_plots as plots  # matplotlib takes a second

    paths = [out / f"{n}.png" for n in ("error_versus_reject", "histograms", "contact_sheet")]
    plots.draw_reject_curves(images.name, curves, *lines, paths[0])
    plots.draw_histograms(images.name, found.scalars, paths[1])
    values = found.scalars[by]
    rows, ranks = spread(values, plots.COLUMNS * plots.ROWS)
    cells = [
        plots.Cell(int(rank), float(values[row]), pixels)
        for row, rank, pixels in zip(rows, ranks, pixels_of(images.split, rows), strict=True)
    ]
    count = int(np.isfinite(values).sum())
    plots.draw_contact_sheet(images.name, by, cells, count, paths[2])
    return paths
