"""Where a prepared set lies: a folder of this machine, or an fsspec URL such as `s3://bucket/faces`.

Commands and configs hold places as paths or as strings. `pathlib` writes `s3://bucket/faces` as
`s3:/bucket/faces`; both mean the same here, so a place may pass through a `Path` unharmed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from facerec.data.errors import DataError

_URL = re.compile(r"([a-z][a-z0-9+.-]+):/{1,2}(?!/)(.+)")  # two letters or more: `C:/` is a drive
_ON_THIS_MACHINE = {"file", "local"}


def url_of(place: str | os.PathLike[str]) -> str | None:
    """The URL that a place means, without a slash at its end; None for a folder of this machine.

    Raises:
        DataError: A password or a query stands in it; both would be kept in `config.json`.
    """
    found = _URL.fullmatch(os.fspath(place))
    if found is None or found[1] in _ON_THIS_MACHINE:
        return None
    scheme, rest = found[1], found[2].rstrip("/")
    host = rest.partition("/")[0]
    user, _, shown = host.rpartition("@")
    if ":" in user:
        raise DataError(
            f"{scheme}://***@{shown}{rest[len(host) :]}: holds a password, which would be kept "
            "with the run; take it out and give it by the environment: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY or ~/.aws for S3, ~/.netrc for HTTP"
        )
    if "?" in rest or "#" in rest:
        cut = re.split(r"[?#]", rest)[0]
        raise DataError(
            f"{scheme}://{cut}?***: a folder's URL has no query, which would be kept with the run; "
            f"give {scheme}://{cut}"
        )
    return f"{scheme}://{rest}"


def folder_of(place: str | os.PathLike[str]) -> Path:
    """The folder of a place on this machine; `file:///data/faces` is `/data/faces`."""
    text = os.fspath(place)
    found = re.fullmatch(r"(file|local):(?://)?(/.*)", text)
    return Path(found[2] if found else text)


def absolute(place: str | os.PathLike[str]) -> str:
    """The place as it is found from any folder: its URL, or its absolute path."""
    return url_of(place) or str(folder_of(place).absolute())
