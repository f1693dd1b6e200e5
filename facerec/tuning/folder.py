"""A sweep's folder: who owns it, and what the sweep in it was when it began.

The owner holds a lock that the kernel frees with the process, however it ends. `sweep.json` says
what the sweep is; a resumed sweep has to be the same, but may have more trials, another number of
workers, a wider space, and its data elsewhere.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from facerec.config import ConfigError, flatten
from facerec.data.index import index_file
from facerec.data.shards import Shards
from facerec.data.writer import write_json
from facerec.domains import Scalar
from facerec.tuning import results
from facerec.tuning.sweep import Sweep, as_json

VERSION = 1
RECORD = "sweep.json"
# Data may have moved, and be decoded elsewhere: what counts is what is in it.
PLACES = ("data.train", "data.eval", "data.cache", "data.cache_dir", "data.decoders")


def record(
    sweep: Sweep, *, sampler: str, overrides: Mapping[str, Scalar], smoke: bool, commit: str
) -> dict[str, Any]:
    """Give what `sweep.json` holds: the sweep, the command line's changes, the data's hashes."""
    return {
        "version": VERSION,
        "name": sweep.name,
        "metric": sweep.metric,
        "trials": sweep.trials,
        "confirm": sweep.confirm,
        "seeds": sweep.seeds,
        "early_stop": sweep.early_stop,
        "sampler": sampler,
        "overrides": dict(overrides),
        "smoke": smoke,
        "base": flatten(sweep.base),
        "space": {key: as_json(domain) for key, domain in sweep.space.items()},
        "points": [dict(point) for point in sweep.points],
        "warm_start": {},
        "classes": Shards(sweep.base.data.train).split("train").classes,
        "data": {
            "train": _digest(sweep.base.data.train),
            "eval": {path.resolve().name: _digest(path) for path in sweep.base.data.eval_sets},
        },
        "commit": commit,
    }


def read(folder: Path, name: str = RECORD) -> dict[str, Any]:
    """Read `sweep.json`, or another record of that kind.

    Raises:
        ConfigError: Where it is missing, damaged, or of another version.
    """
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
        version = found["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder}: not a sweep's folder ({name}: {error})") from None
    if version != VERSION:
        raise ConfigError(
            f"{folder / name} has version {version}, this program reads version {VERSION}"
        )
    return {"confirm": 0, "seeds": 0, "warm_start": {}, **found}  # older ones have none of these


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `sweep.json`, aside and then in place."""
    write_json(folder / RECORD, content)


def check_storage(storage: Path) -> None:
    """Refuse a storage in which no folder can be made, before there is anything to write.

    Raises:
        ConfigError: Naming the folder that is in the way.
    """
    there = next(path for path in (storage, *storage.absolute().parents) if path.exists())
    if not there.is_dir():
        raise _unwritable(storage, f"{there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(storage, f"no right to write into {there}")


def _unwritable(storage: Path, why: str | None) -> ConfigError:
    return ConfigError(
        f"--storage {storage}: cannot be written ({why}); give --storage DIR, a folder of yours"
    )


def create(storage: Path, name: str) -> Path:
    """Make the folder of a new sweep: `name`, or `name-2` and so on where that is taken.

    Raises:
        ConfigError: Where the storage cannot be written.
    """
    try:
        storage.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{n}" for n in range(2, 10_000))):
            folder = storage / f"{name}{suffix}"
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        raise _unwritable(storage, error.strerror) from None
    raise ConfigError(f"--storage {storage}: holds 10,000 sweeps named {name}; give another DIR")


def resumable(storage: Path, name: str) -> Path:
    """Find the run of a sweep to go on with: the newest unfinished one, else the newest.

    One is finished when its trials are over and its verdict is given.

    Raises:
        ConfigError: Where there is none.
    """
    runs = begun(storage, name)
    return next((run for run in runs if not _over(run)), runs[0])


def _over(run: Path) -> bool:
    record = read(run)
    return finished(run) >= record["trials"] and (not record["confirm"] or judged(run, record))


def judged(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the sweep's verdict is that of as many trials, settings and seeds as wanted.

    Args:
        folder: The sweep's.
        record: Its `sweep.json`.
    """
    found = results.verdict(folder)
    return all(found.get(key) == record[key] for key in ("trials", "confirm", "seeds"))


def begun(storage: Path, name: str, record: str = RECORD) -> list[Path]:
    """Find what was begun under a name, the newest first.

    Raises:
        ConfigError: Where there is nothing.
    """
    runs = [
        path.parent
        for path in storage.glob(f"{name}*/{record}")
        if _suffix(path.parent.name, name) is not None
    ]
    runs.sort(key=lambda path: _suffix(path.name, name) or 0, reverse=True)
    if not runs:
        others = sorted(path.parent.name for path in storage.glob(f"*/{record}"))
        hint = f"there are {', '.join(others)}" if others else "there is no sweep at all"
        raise ConfigError(
            f"--resume: nothing to resume, {storage / name} is not a sweep's folder ({hint}); "
            "leave --resume out to start, or name the --storage that it is in"
        )
    return runs


def _suffix(folder: str, name: str) -> int | None:
    """Give 1 for `name`, n for `name-n`, None for anything else."""
    rest = folder.removeprefix(name)
    if rest == "":
        return 1
    return int(rest[1:]) if rest[0] == "-" and rest[1:].isdigit() else None


def finished(folder: Path) -> int:
    """Count the trials of a sweep's folder that are over."""
    try:
        trials = results.load(folder).trials
    except ConfigError:
        return 0
    return int((trials["status"] != "running").sum())


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Own a sweep's folder while the block runs.

    Raises:
        ConfigError: Where a living process owns it.
    """
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ConfigError(
                f"{folder}: is being run by process {file.read().strip() or '?'}; wait for it, or "
                "leave --resume out to start a sweep of its own"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def discard(folder: Path) -> None:
    """Remove the folder of a sweep that never began."""
    shutil.rmtree(folder, ignore_errors=True)


def check_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on where the sweep is another one than the folder's.

    Raises:
        ConfigError: Naming the first key that differs, with both values.
    """

    def differs(key: str, old: object, new: object) -> ConfigError:
        return ConfigError(
            f"{key} = {new}: {folder} was begun with {old}; give {key}={old}, or leave --resume "
            "out to start another sweep"
        )

    for key in ("metric", "early_stop", "sampler"):
        if before[key] != now[key]:
            raise differs(key, before[key], now[key])
    for key, value in before["base"].items():
        if key not in PLACES and now["base"].get(key) != value:
            raise differs(key, value, now["base"].get(key))
    if before["data"]["train"] != now["data"]["train"]:
        raise ConfigError(
            f"data.train = {now['base']['data.train']}: holds other images than "
            f"{before['base']['data.train']}, which {folder} was begun with"
        )
    if before["data"]["eval"] != now["data"]["eval"]:
        raise differs("data.eval", before["base"]["data.eval"], now["base"]["data.eval"])
    for key in before["space"].keys() | now["space"].keys():
        old, new = before["space"].get(key), now["space"].get(key)
        if old is None or new is None:
            raise ConfigError(
                f"space: {key} is {'new' if old is None else 'gone'}; {folder} searches "
                f"{', '.join(before['space'])}, and a resumed sweep may only widen their ranges"
            )
        if not _contains(new, old):
            raise ConfigError(
                f"space: {key}: {new} does not hold all of {old}, which {folder} was begun with; "
                "a resumed sweep may only widen its ranges"
            )


def _contains(wide: Mapping[str, Any], narrow: Mapping[str, Any]) -> bool:
    if wide["kind"] != narrow["kind"] or wide.get("log") != narrow.get("log"):
        return False
    if wide["kind"] == "choice":
        return all(option in wide["options"] for option in narrow["options"])
    return bool(wide["low"] <= narrow["low"] and narrow["high"] <= wide["high"])


def _digest(place: str | Path) -> str:
    """Give the hash of a prepared set's index, which holds the hashes of its files."""
    return hashlib.sha256(index_file(place).read_bytes()).hexdigest()
