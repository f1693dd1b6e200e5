"""The model card of a run: what it learnt from, how well it does, and what may be done with it.

Made from the run folder alone, and from the data where they are still there; written at the end of
a training and again at each export.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from facerec import checkpoint, history
from facerec.config import ConfigError, TrainConfig, flatten, load
from facerec.data import leaks
from facerec.data.index import index_file
from facerec.data.shards import DataError, Shards
from facerec.data.writer import write_bytes
from facerec.version import commit, version

NAME = "model_card.md"
WEIGHTS = "backbone.safetensors"
EVALUATION = "evaluation.parquet"

# Of the training, not of the model.
_NOT_MEASURES = {"loss", "train", "threshold", "geometry", "bound"}

# What is known of a source by its name: (parts of names, what they mean). The first that fits.
_PROVENANCE: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("ms1m", "msceleb", "ms-celeb", "emore"),
        "MS-Celeb-1M and what was made from it (MS1MV2, MS1MV3, faces_emore): photographs of "
        "people collected from the web without asking them. Microsoft withdrew the set in 2019. "
        "insightface offers its packed copies, and models trained on them, for non-commercial "
        "research only.",
    ),
    (
        ("glint360k", "glint"),
        "Glint360K: merged from older public collections of photographs from the web. It, and "
        "models trained on it, are available for non-commercial research only.",
    ),
    (
        ("webface4m", "webface12m", "webface42m", "webface260m"),
        "WebFace260M and its parts: photographs from the web, given out under an agreement for "
        "non-commercial research only; models trained on it are bound by it too.",
    ),
    (
        ("casia", "webface"),
        "CASIA-WebFace: photographs of actors collected from the web, for non-commercial research "
        "only, in insightface's packed copy too.",
    ),
    (
        ("vgg",),
        "VGGFace and VGGFace2: photographs from the web; their authors no longer offer the images "
        "of VGGFace2.",
    ),
    (
        ("lfw",),
        "LFW: press photographs collected from the web, published for research. Its authors warn "
        "that many groups of people are hardly in it, and that good numbers on it do not make a "
        "system fit for use.",
    ),
)


def write(run: Path, *, exported: Mapping[str, str] | None = None) -> Path:
    """Write `model_card.md` into a run folder, aside and then in place.

    Args:
        run: The run folder; it has a checkpoint.
        exported: Rows about a file that was made from it, by what they are called.

    Returns:
        The card.

    Raises:
        ConfigError: It is not a run folder.
    """
    config, folder = load(run / "config.json"), checkpoint.find(run)
    shards = _training_shards(config)
    lines = [f"# Model card: {run.resolve().name}", ""]
    lines += ["A network that turns an aligned image of a face into an embedding; the cosine of"]
    lines += ["two embeddings says how alike two faces are.", ""]
    lines += ["## The model", "", *_rows(_model(config, run, folder))]
    if exported:
        lines += ["## Exported", "", *_rows(exported)]
    lines += ["## What it learnt from", "", *_training_set(config, shards)]
    lines += ["## What was measured", "", *_measures(config, run)]
    lines += _leaks(config, shards)
    lines += ["## Licence and provenance", "", *_licence(config, shards)]
    lines += ["## Use", "", *_USE, "", "## Config", "", "```"]
    lines += [f"{key}={value}" for key, value in flatten(config).items()] + ["```"]
    write_bytes(run / NAME, ("\n".join(lines) + "\n").encode())
    return run / NAME


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


_USE = (
    "- Images must be aligned as the training images were; others give embeddings without meaning.",
    "- The numbers above hold for people and cameras like those of the measured sets. Error rates",
    "  differ between groups of people: measure yours before anybody depends on a decision.",
    "- A threshold holds at the false accept rate at which it was learnt, on a set like that one.",
    "- An embedding is personal data wherever the face is somebody's: it can be linked, and partly",
    "  turned back into a picture.",
    "- `docs/responsible_use.md` of facerec says more: consent, law, uses that this is not for.",
)


def _rows(rows: Mapping[str, str] | Iterable[tuple[str, str]]) -> list[str]:
    pairs = rows.items() if isinstance(rows, Mapping) else rows
    return _table(("", ""), pairs)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    found = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *found]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def _model(config: TrainConfig, run: Path, folder: Path) -> Iterator[tuple[str, str]]:
    last = history.History(run, int(folder.name)).last()
    yield "backbone", config.backbone.name
    yield "loss", config.loss.name
    yield "embedding", f"{config.head.embedding_size} numbers, not normalised"
    yield "input", "RGB, (x - 127.5) / 127.5"
    yield "trained for", f"{last.get('epoch', 0):g} epochs, {int(folder.name)} steps"
    yield "images seen", f"{last.get('images', 0):.0f}"
    yield "seed", str(config.seed)
    yield f"SHA-256 of {WEIGHTS}", f"`{file_sha256(folder / WEIGHTS)}`"
    yield "card written with", f"facerec {version()}, commit {commit() or 'unknown'}"


def _training_shards(config: TrainConfig) -> Shards | None:
    try:
        return Shards(config.data.train) if config.data.train else None
    except DataError:
        return None


def _training_set(config: TrainConfig, shards: Shards | None) -> list[str]:
    if shards is None:
        name = Path(config.data.train).name or "none is named"
        return [f"Training shards `{name}`: not there when this card was written.", ""]
    index = shards.index
    parts = {"train": index, **index["splits"]}
    source = index.get("source", {})
    rows = {
        "shards": shards.path.resolve().name,
        **{
            name: f"{part['rows']} images of {part['classes']} people"
            for name, part in parts.items()
        },
        "source": " ".join(str(source[key]) for key in ("kind", "name") if source.get(key)),
        "fingerprint of the source": str(source.get("fingerprint", "unknown")),
        "images": f"{shards.image_size[0]} x {shards.image_size[1]} pixels, "
        f"{index.get('colour_order', 'unknown')}, alignment: {index.get('alignment', 'unknown')}",
        "SHA-256 of index.json": f"`{file_sha256(shards.path / 'index.json')}`",
    }
    return [*_rows(rows), "`index.json` holds the SHA-256 of every shard.", ""]


def _measures(config: TrainConfig, run: Path) -> list[str]:
    if (run / EVALUATION).is_file():
        table = [row for row in pq.read_table(run / EVALUATION).to_pylist() if row["fold"] is None]
        head = ("set", "metric", "value", "95 % interval", "group", "protocol")
        rows = [
            (
                row["set"],
                row["metric"],
                _number(row["value"]),
                "" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}",
                row["group"] or "",
                row["protocol"],
            )
            for row in table
        ]
        return [*_table(head, rows), *_hashes(config)]
    last = (history.read(run) or [{}])[-1]
    measured = [
        (name, _number(value))
        for name, value in last.items()
        if "." in name and name.partition(".")[0] not in _NOT_MEASURES
    ]
    if not measured:
        return ["Nothing: the training had no evaluation set.", ""]
    return [
        *_table(("metric, after the last epoch", "value"), measured),
        "Without intervals: `facerec evaluate RUN SET --out RUN` keeps a table in the run folder,",
        "from which the next card is made. `val` chose settings where this run is a sweep's.",
        "",
        *_hashes(config),
    ]


def _hashes(config: TrainConfig) -> list[str]:
    rows = []
    for folder in config.data.eval_sets:
        with suppress(DataError, ConfigError):  # no longer there
            rows.append((folder.name, f"`{file_sha256(index_file(folder))}`"))
    return _table(("evaluation set", "SHA-256 of index.json"), rows) if rows else []


def _leaks(config: TrainConfig, shards: Shards | None) -> list[str]:
    """What each evaluation set shares with the training images, as far as it was looked for."""
    if shards is None:
        return []
    train = config.data.train
    lines = [
        f"- {place.name}: leaks: {leaks.told(train, place)}" for place in config.data.eval_sets
    ]
    if "val" in shards.index["splits"]:
        lines.insert(0, f"- val: leaks: {leaks.told(train, train, 'val')}")
    return [*lines, ""] if lines else []


def _number(value: float | None) -> str:
    return "not measured" if value is None or not math.isfinite(value) else f"{value:.4f}"


def _licence(config: TrainConfig, shards: Shards | None) -> list[str]:
    source = shards.index.get("source", {}) if shards else {}
    lines = [
        "facerec is under Apache-2.0. That covers the program, not this model: weights follow the",
        "terms of the images that they were learnt from, and most public face sets allow",
        "non-commercial research only.",
        "",
    ]
    return [*lines, _provenance(source, Path(config.data.train).name), ""]


def _provenance(source: Mapping[str, Any], folder: str) -> str:
    """What is known of the training images, by where they came from."""
    if source.get("kind") == "synthetic":
        return "The training images were drawn by a program and show nobody."
    for name in (str(source.get("name", "")), folder):
        for parts, text in _PROVENANCE:
            if any(part in name.lower() for part in parts):
                return f"By its name (`{name}`) the training set is probably {text}"
    return (
        "Where the training images came from is not known to facerec. Whoever passes this model on "
        "has to say it here: who is shown, who agreed to that, and under which terms."
    )
