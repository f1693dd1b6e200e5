"""The files of one checkpoint: what lies where, whether it is whole, and any range of the head.

`checkpoints/<step>/` holds

- `state.json`, written last: the position, the state of parts that are numbers, which classes lie
  in which piece, and length and SHA-256 of every other file;
- `backbone.safetensors`, `head.safetensors`, `optimizer.safetensors`: what has no class axis;
- `head-<start>-<stop>.safetensors`, `optimizer-<start>-<stop>.safetensors`: what has one, centers
  and momentum first of all; a pair of files for each worker, of the classes that it held;
- `identities.parquet`: the names of the classes, by label.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from facerec.data.identities import Identities
from facerec.data.writer import sha256, sync
from facerec.values import ConfigError

VERSION = 2
STATE = "state.json"
BACKBONE, HEAD, OPTIMIZER = "backbone.safetensors", "head.safetensors", "optimizer.safetensors"
IDENTITIES = "identities.parquet"
HEAD_PART, OPTIMIZER_PART = 0, 1  # of a pair of piece files


class Damaged(ConfigError):
    """A checkpoint is not whole; the message names it and what is wrong."""


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: Epochs that are over.
        images_seen: Images of the present epoch that were used, over all workers.
        step: Steps that are over, in all.
        seconds: Wall-clock seconds of training and evaluation, over all interruptions.
        train_seconds: The part of `seconds` spent in training steps during the present epoch.
        sums: Sums over the present epoch's images: loss, its terms, correct answers.
        ended: Whether the last step of the present epoch is over (`epoch` counts it already) and
            it remains to be measured.
    """

    epoch: int = 0
    images_seen: int = 0
    step: int = 0
    seconds: float = 0.0
    train_seconds: float = 0.0
    sums: dict[str, float] = field(default_factory=dict)
    ended: bool = False

    def close(self) -> None:
        """Go on to the next epoch, once this one is measured."""
        self.images_seen, self.train_seconds, self.sums, self.ended = 0, 0.0, {}, False


@dataclass(frozen=True)
class Saved:
    """What `state.json` of a checkpoint says.

    Attributes:
        folder: The checkpoint's folder.
        progress: How far the run was.
        classes: Classes of the head.
        pieces: First class and one past the last of each pair of piece files, in order.
        files: Name -> `bytes` and `sha256` of each file.
        parts: Name -> state of the parts that are numbers, such as a gradient scaler.
        source: Fingerprint of what the training set was prepared from, empty where unknown.
    """

    folder: Path
    progress: Progress
    classes: int
    pieces: tuple[tuple[int, int], ...]
    files: Mapping[str, Mapping[str, Any]]
    parts: Mapping[str, Mapping[str, Any]]
    source: str

    @property
    def content(self) -> dict[str, Any]:
        """The content of `state.json`."""
        own = {name: getattr(self, name) for name in ("classes", "parts", "source", "files")}
        return {"version": VERSION, **asdict(self.progress), "pieces": self.pieces, **own}


def read_state(folder: Path) -> Saved:
    """Read `state.json` of a checkpoint.

    Raises:
        Damaged: It is missing or cannot be read.
        ConfigError: It is of another version.
    """
    state = _content(folder)
    if state["version"] != VERSION:
        raise ConfigError(
            f"{folder}: checkpoint of version {state['version']}, this program goes on from "
            f"version {VERSION}; train it again into another --run"
        )
    try:
        return Saved(
            folder,
            Progress(**{item.name: state[item.name] for item in fields(Progress)}),
            int(state["classes"]),
            tuple((int(start), int(stop)) for start, stop in state["pieces"]),
            {name: dict(entry) for name, entry in state["files"].items()},
            state["parts"],
            str(state["source"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder / STATE}: not a whole checkpoint file ({error!r})") from None


def _content(folder: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
        state["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder / STATE}: not a whole checkpoint file ({error!r})") from None
    return state


def check(folder: Path) -> Saved:
    """Read a checkpoint's files from end to end.

    Raises:
        Damaged: A file is missing, too short, or of another hash than `state.json` says.
        ConfigError: It is of another version.
    """
    saved = read_state(folder)
    edges = [0, *(stop for _, stop in saved.pieces)]
    if [start for start, _ in saved.pieces] != edges[:-1] or edges[-1] != saved.classes:
        raise Damaged(f"{folder / STATE}: lists pieces that are not its {saved.classes} classes")
    pieces = {name for start, stop in saved.pieces for name in piece_files(start, stop)}
    for name in sorted({BACKBONE, HEAD, OPTIMIZER} | pieces | saved.files.keys()):
        check_file(saved, name)
    return saved


def check_file(saved: Saved, name: str) -> None:
    """Read one file of a checkpoint from end to end.

    Raises:
        Damaged: It is missing, too short, or of another hash than `state.json` says.
    """
    path, entry = saved.folder / name, saved.files.get(name, {})
    try:
        why = ""
        if (size := path.stat().st_size) != entry.get("bytes"):
            why = f"{size} bytes, it was written with {entry.get('bytes')}"
        elif sha256(path) != entry.get("sha256"):
            why = "its SHA-256 is another than when it was written"
    except OSError as error:
        why = str(error.strerror)
    if why:
        raise Damaged(f"{path}: not a whole checkpoint file ({why})")


def check_backbone(folder: Path) -> None:
    """Read a checkpoint's backbone from end to end; the first version has no hash to hold it to.

    Raises:
        Damaged: It, or `state.json`, is not whole.
        ConfigError: It is of another version.
    """
    if _content(folder)["version"] != 1:
        check_file(read_state(folder), BACKBONE)


def describe(path: Path) -> dict[str, Any]:
    """What `state.json` says about a finished file: `bytes` and `sha256`."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def piece_files(start: int, stop: int) -> tuple[str, str]:
    """The names of the files with the classes `start` to `stop`: the head's, the optimizer's."""
    return f"head-{start}-{stop}.safetensors", f"optimizer-{start}-{stop}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, made durable.

    Raises:
        OSError: It cannot be written, with the file's name.
    """
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # says what the system said in words of its own
        number = re.search(r"os error (\d+)|code: (\d+)", str(error))
        code = int(number.group(1) or number.group(2)) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from None
    sync(path)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Read a safetensors file of a checkpoint, onto the CPU.

    Raises:
        Damaged: It is missing or damaged.
    """
    try:
        tensors: dict[str, Tensor] = load_file(folder / name)
        return tensors
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{folder / name}: not a whole checkpoint file ({error})") from None


def class_names(saved: Saved, part: int) -> list[str]:
    """The tensors with a class axis.

    Args:
        saved: The checkpoint.
        part: `HEAD_PART` or `OPTIMIZER_PART`.

    Raises:
        Damaged: A file is missing or damaged.
    """
    names: dict[str, None] = {}
    for start, stop in saved.pieces:
        path = saved.folder / piece_files(start, stop)[part]
        try:
            with safe_open(path, "pt") as file:
                names |= dict.fromkeys(file.keys())
        except (OSError, SafetensorError) as error:
            raise Damaged(f"{path}: not a whole checkpoint file ({error})") from None
    return list(names)


def class_rows(saved: Saved, part: int, name: str, start: int, stop: int) -> Tensor:
    """Read any range of any tensor with a class axis; no other range is read.

    Args:
        saved: The checkpoint, written by any number of workers.
        part: `HEAD_PART` or `OPTIMIZER_PART`.
        name: The tensor.
        start: First class.
        stop: One past the last class.

    Returns:
        (stop - start, ...), on the CPU; zeros for classes whose worker had no such state yet.

    Raises:
        Damaged: A file is missing or damaged.
        ConfigError: No piece has such a tensor.
    """
    whole: Tensor | None = None
    for first, last in saved.pieces:
        low, high = max(start, first), min(stop, last)
        here = low < high
        if first == last or (not here and whole is not None):
            continue
        path = saved.folder / piece_files(first, last)[part]
        try:
            with safe_open(path, "pt") as file:
                if name not in file.keys():  # noqa: SIM118 (it is no mapping)
                    continue
                # Of a piece before the range one row is read, for the shape and the type.
                cut = slice(low - first, high - first) if here else slice(0, 1)
                rows = file.get_slice(name)[cut]
        except (OSError, SafetensorError) as error:
            raise Damaged(f"{path}: not a whole checkpoint file ({error})") from None
        if whole is None:
            whole = rows.new_zeros((stop - start, *rows.shape[1:]))
        if here:
            whole[low - start : high - start] = rows
    if whole is None:
        raise ConfigError(f"{saved.folder}: lacks tensor {name}; it belongs to another config")
    return whole


def read_identities(saved: Saved) -> Identities | None:
    """The names of the classes; None where the training set had none.

    Raises:
        Damaged: The file is missing or damaged.
    """
    if IDENTITIES not in saved.files:
        return None
    path = saved.folder / IDENTITIES
    try:
        names = pq.read_table(path, partitioning=None)["identity"].combine_chunks()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise Damaged(f"{path}: not a whole checkpoint file ({error})") from None
    return Identities(names, saved.source)
