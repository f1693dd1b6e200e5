"""`index.json` of a prepared set: where it is found, and what may stand in it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facerec.data.errors import AGAIN, DataError, first_line
from facerec.data.place import folder_of, url_of
from facerec.data.remote import RemoteFiles
from facerec.data.shard_files import LocalFiles, ShardFiles

VERSION = 1


def open_files(place: str | os.PathLike[str]) -> ShardFiles:
    """The files of a prepared set, in a folder of this machine or below a URL.

    Raises:
        DataError: There is no such folder; a URL holds no set, or cannot be reached.
    """
    url = url_of(place)
    return RemoteFiles(url) if url else LocalFiles(folder_of(place))


def index_file(place: str | os.PathLike[str]) -> Path:
    """`index.json` of a prepared set on this machine; of a URL the copy that is in the cache now.

    Raises:
        DataError: There is no such folder; a URL holds no set, or cannot be reached.
    """
    return open_files(place).path / "index.json"


def is_prepared(place: str | os.PathLike[str]) -> bool:
    """Whether a place is meant as a prepared set: a URL, or a folder with an `index.json`."""
    return url_of(place) is not None or (folder_of(place) / "index.json").is_file()


def read_index(folder: Path, place: str) -> Mapping[str, Any]:
    """Reads it, of the one version that there is.

    Args:
        folder: where it lies.
        place: what messages call the set.

    Raises:
        DataError: it is missing, damaged or of another version.
    """
    try:
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(
            f"{place} has no index.json: it is half-written or no prepared set; the same "
            f"data_prep command again continues an interrupted one"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{place}/index.json cannot be read: {first_line(error)}: {AGAIN}"
        ) from error
    version = index.get("version") if isinstance(index, dict) else None
    if version != VERSION:
        raise DataError(
            f"{place}/index.json has version {version}, this program reads version {VERSION}: "
            f"prepare the set again into another folder"
        )
    return dict(index)


def plain(name: object, what: str) -> str:
    """A name out of the index, which stands for something inside the set's own folder.

    Args:
        name: as the index has it.
        what: it names, for the sentence.

    Raises:
        DataError: it is no plain name.
    """
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\\0"):
        raise DataError(
            f"index.json names the {what} {name!r}, which is no plain name: a prepared set's files "
            "lie in its own folder"
        )
    return name
