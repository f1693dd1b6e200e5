"""From a source to a prepared set: check every image, cut, relabel, shuffle once, write.

Two passes. The first reads and decodes every image, so that damage is found before anything is
written, and keeps a few numbers of each; the second reads again, in the order of the shards. What
comes out depends on source and options alone, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.cuts import SEED, Cut, Options, Part, Plan, Table, split
from data_prep.damage import Damage, Tell
from data_prep.readers import Batched, Facts, Source, read
from data_prep.scan import scan
from facerec.data.shards import VERSION, DataError, FaceImage, Shards
from facerec.data.writer import COLUMNS, GROUP_ROWS, describe, write_json, write_table

SHARD_ROWS = 4096  # some 25 MB of 112 x 112 JPEGs: a kill loses little
_BEGUN = "preparing.json"  # stands in the folder while index.json does not
_TASK = 64  # images that a thread reads at a time


@dataclass(frozen=True)
class Prepared:
    """A finished set: its `index.json`, and whether it had been finished before."""

    index: Mapping[str, Any]
    already: bool = False

    @property
    def left_out(self) -> Mapping[str, int]:
        """What `--on-error skip` left out: `images`, and rows of tables by name; only above 0."""
        counts = self.index["source"]["counts"]
        lost = {"images": counts["left_out"]}
        for name, number in counts.items():
            if name.endswith("_left_out"):
                lost[name.removesuffix("_left_out")] = number
        return {name: number for name, number in lost.items() if number}


def prepare(
    source: Source,
    folder: Path,
    options: Options,
    *,
    said: Mapping[str, Any],
    tell: Tell,
    cut: Cut = split,
    shard_rows: int = SHARD_ROWS,
) -> Prepared:
    """Writes a prepared set.

    Args:
        source: the images.
        folder: where the set goes: new, empty, or begun by the same source and options.
        options: cuts and filters.
        said: all options as the user gave them, for `index.json`.
        tell: progress and warnings.
        cut: which rows become which split, and the tables beside them; for training by default.
        shard_rows: rows per file.

    Raises:
        DataError: an image is damaged (unless they are skipped), too little is left, or the folder
            holds something else.
    """
    origin = {
        "kind": source.facts.kind,
        "name": source.facts.name,
        "fingerprint": source.facts.fingerprint,
        "options": dict(said),
    }
    with _claim(folder, tell):
        finished = _compare(folder, origin)
        if finished is not None:
            (folder / _BEGUN).unlink(missing_ok=True)  # killed between the two
            return Prepared(finished, already=True)
        for remark in source.facts.remarks:
            tell.warn(remark)
        damage = Damage(tell, options.skip_errors, folder)
        for fault in source.facts.faults:
            damage.refuse(fault)
        images = scan(source, damage)
        plan = cut(images, source.facts, options, damage)
        write_json(folder / _BEGUN, {"source": origin})
        entries = {
            name: _write_part(folder, name, source, part, images.size, tell, shard_rows)
            for name, part in plan.parts.items()
        }
        index: dict[str, Any] = {"version": VERSION, **entries.pop("train"), "splits": entries}
        _write_tables(folder, plan.tables, index)
        index |= {
            "image_size": list(images.size),
            "colour_order": "RGB",
            "alignment": source.facts.alignment,
            "source": {
                **origin,
                **source.facts.details,
                "seed": SEED,
                "counts": _counts(plan, source.facts),
                "damage": damage.write(folder),
                "tool": f"facerec {_version()}",
            },
        }
        write_json(folder / "index.json", index)
        (folder / _BEGUN).unlink()
    return Prepared(index)


def _write_part(
    folder: Path,
    name: str,
    source: Source,
    part: Part,
    size: tuple[int, int],
    tell: Tell,
    shard_rows: int,
) -> dict[str, Any]:
    """Writes the shards of one part that are not there yet; returns its entry for the index."""
    schema = pa.schema([*COLUMNS, *source.facts.columns])
    tell.start(f"writing {name}", len(part.positions))
    stem = "shard" if name == "train" else name
    described: list[Future[dict[str, Any]]] = []
    # Who reads in batches waits for nothing but Python, of which there is one at a time.
    threads = 1 if isinstance(source, Batched) else os.cpu_count()
    # A shard is hashed while the next one is written.
    with ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as hashing:
        for number, first in enumerate(range(0, len(part.positions), shard_rows)):
            path = folder / f"{stem}-{number:05d}.parquet"
            rows = range(first, min(first + shard_rows, len(part.positions)))
            if not path.exists():
                groups = _groups(source, part.positions[rows.start : rows.stop], pool)
                edges = range(rows.start, rows.stop, GROUP_ROWS)
                labels = (part.labels[low : min(low + GROUP_ROWS, rows.stop)] for low in edges)
                tables = map(partial(_table, schema, size), groups, labels)
                write_table(path, schema, tables)
            described.append(hashing.submit(describe, path))
            tell.advance(len(rows))
        shards = [shard.result() for shard in described]
    return {"rows": len(part.positions), "classes": part.classes, "shards": shards}


def _groups(
    source: Source, positions: NDArray[np.int64], pool: ThreadPoolExecutor
) -> Iterator[list[FaceImage]]:
    """The images of one row group after the other, read on all cores: some are changed there."""
    for first in range(0, len(positions), GROUP_ROWS):
        group = positions[first : first + GROUP_ROWS].tolist()
        tasks = [group[start : start + _TASK] for start in range(0, len(group), _TASK)]
        done = pool.map(lambda task: list(read(source, task)), tasks)
        yield [_whole(face) for some in done for face in some]


def _whole(face: FaceImage | DataError) -> FaceImage:
    """The image; it was whole when it was checked, so an error is of a source that changed."""
    if isinstance(face, DataError):
        raise face
    return face


def _table(
    schema: pa.Schema, size: tuple[int, int], faces: list[FaceImage], labels: NDArray[np.int32]
) -> pa.Table:
    """One row group."""
    images, identities, keys, _, more = zip(*faces, strict=True)
    columns = [
        images,
        labels,
        keys,
        identities,
        np.full(len(faces), size[0], np.int32),
        np.full(len(faces), size[1], np.int32),
        *([values[name] for values in more] for name in schema.names[len(COLUMNS) :]),
    ]
    arrays = [pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def _counts(plan: Plan, facts: Facts) -> dict[str, int]:
    counts = dict(plan.counts)
    if facts.faults:
        counts[f"{facts.faulty}_left_out"] = len(facts.faults)
    return counts


def _write_tables(folder: Path, tables: Sequence[Table], index: dict[str, Any]) -> None:
    """Writes the tables beside the shards and describes them in the index."""
    for table in tables:
        path = folder / table.file
        write_table(path, table.content.schema, [table.content])
        *outer, name = table.entry
        place = index
        for key in outer:
            place = place.setdefault(key, {})
        place[name] = describe(path)


@contextlib.contextmanager
def _claim(folder: Path, tell: Tell) -> Iterator[None]:
    """Makes the folder and keeps other preparations out of it; removes it if nothing came."""
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no such lock
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell.warn(f"another data_prep writes to {folder}: waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
        if new:
            with contextlib.suppress(OSError):  # it holds something by now
                folder.rmdir()


def _compare(folder: Path, origin: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The index of a finished set; None for a folder to write to or to go on in.

    Raises:
        DataError: the folder holds another set, or something else.
    """
    for name in ("index.json", _BEGUN):
        try:
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            old = {key: content["source"][key] for key in origin}
            found = {**old, **old["options"]}
            if name == "index.json":
                Shards(folder)
                Prepared(content).left_out  # noqa: B018 - its numbers are there
        except FileNotFoundError:
            continue
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            why = f": {error}" if isinstance(error, DataError) else ""
            raise DataError(f"{folder / name} is damaged: delete the folder{why}") from error
        wanted = {**origin, **origin["options"]}
        changed = [
            f"{key} was {found.get(key)!r} and is {wanted.get(key)!r}"
            for key in sorted({*wanted, *found} - {"options"})
            if found.get(key) != wanted.get(key)
        ]
        if changed:
            raise DataError(
                f"{folder} holds a set from another source or with other options: "
                f"{', '.join(changed)}; delete it or name another folder"
            )
        return dict(content) if name == "index.json" else None
    if any(path.name != f"{_BEGUN}.part" for path in folder.iterdir()):
        raise DataError(f"{folder} is not empty and holds no prepared set: name another folder")
    return None


def _version() -> str:
    try:
        return metadata.version("facerec")
    except metadata.PackageNotFoundError:
        return "from its sources"
