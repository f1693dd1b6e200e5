"""Bytes of files that lie elsewhere, through fsspec: patient, and with one line for what fails."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from facerec.data.errors import DataError, first_line

PAUSES = (0.25, 0.5, 1.0, 2.0)  # seconds between tries, each times 0.5 to 1.5
_CONNECT, _SILENCE = 10.0, 30.0  # seconds until a server counts as away
_TRY_AGAIN = {408, 425, 429}  # HTTP's own "later"; 5xx too
_NEVER = (ValueError, TypeError, KeyError, PermissionError, NotImplementedError)

T = TypeVar("T")


class Missing(DataError):
    """There is no such file."""


class Store:
    """The files below one URL. Picklable, safe to use in threads.

    Args:
        url: without a slash at its end, as `facerec.data.place.url_of` gives it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._jitter = random.Random()  # of its own: a training's random numbers are not touched
        self._lock = threading.Lock()
        self._opened: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, file: str, first: int | None = None, last: int | None = None) -> bytes:
        """The bytes of a file, all or from `first` to before `last`.

        Raises:
            Missing: There is no such file.
            DataError: It cannot be read, or the server does not know byte ranges.
        """
        filesystem, folder = self._open()
        path = f"{folder}/{file}"
        found = self._patiently(file, lambda: filesystem.cat_file(path, start=first, end=last))
        if first is not None and last is not None and len(found) != last - first:
            why = "the file is shorter than it was: it changed under its URL"
            if len(found) > last - first:
                why = (
                    "the server does not know byte ranges; serve the set by one that does (nginx, "
                    "Apache, S3), or copy it to this machine"
                )
            raise DataError(
                f"{self.url}/{file}: asked for {last - first:,} bytes from {first:,}, got "
                f"{len(found):,}: {why}"
            )
        return bytes(found)

    def stamp(self, file: str) -> tuple[int, str]:
        """The size of a file in bytes, and what tells one version of it from another.

        Raises:
            Missing: There is no such file.
            DataError: It cannot be reached, or the server does not tell its size.
        """
        filesystem, folder = self._open()
        found = self._patiently(file, lambda: filesystem.info(f"{folder}/{file}"))
        if not isinstance(found.get("size"), int):
            raise DataError(f"{self.url}/{file}: the server does not tell its size")
        names = ("ETag", "etag", "LastModified", "Last-Modified", "mtime", "created")
        return found["size"], next((str(found[name]) for name in names if found.get(name)), "")

    def _open(self) -> tuple[Any, str]:
        with self._lock:
            if self._opened is None:
                self._opened = _filesystem(self.url)
            return self._opened

    def _patiently(self, file: str, call: Callable[[], T]) -> T:
        for pause in (*PAUSES, None):
            try:
                return call()
            except Exception as error:  # each filesystem has its own
                why, lasting = _reason(error)
                if why == _NO_FILE:
                    raise Missing(f"{self.url}/{file}: {why}") from error
                if lasting or pause is None:
                    tries = "" if lasting else f" (tried {len(PAUSES) + 1} times)"
                    raise DataError(f"{self.url}/{file} cannot be read: {why}{tries}") from error
                time.sleep(pause * self._jitter.uniform(0.5, 1.5))
        raise AssertionError  # the last turn returns or raises


_NO_FILE = "no such file"


def _filesystem(url: str) -> tuple[Any, str]:
    """The filesystem of a URL, and the folder in it."""
    scheme = url.partition("://")[0]
    try:
        import fsspec  # type: ignore[import-untyped]  # the extra `remote`

        options: dict[str, Any] = {}
        if scheme in ("http", "https"):
            import aiohttp

            patience = aiohttp.ClientTimeout(None, sock_connect=_CONNECT, sock_read=_SILENCE)
            options["client_kwargs"] = {"timeout": patience, "trust_env": True}  # ~/.netrc, proxies
            options["headers"] = {"Accept-Encoding": "identity"}  # a range of the file itself
        given = fsspec.config.conf.get(scheme, {})  # the user's, such as FSSPEC_S3_ENDPOINT_URL
        filesystem, folder = fsspec.core.url_to_fs(url, **{**options, **given})
    except ImportError as error:
        raise DataError(
            f"{url}: {scheme}:// takes a package that is not installed ({first_line(error)}): "
            "pip install 'facerec[remote]'"
        ) from error
    except Exception as error:
        raise DataError(f"{url}: cannot be opened: {first_line(error)}") from error
    return filesystem, str(folder).rstrip("/")


def _reason(error: Exception) -> tuple[str, bool]:
    """Why a request failed, and whether it would fail again."""
    for one in (error, error.__cause__):  # fsspec calls whatever fails under HEAD a missing file
        status = _status(one)
        if status == HTTPStatus.NOT_FOUND:
            return _NO_FILE, True
        if status is not None:
            phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else ""
            return f"HTTP {status} {phrase}".rstrip(), status < 500 and status not in _TRY_AGAIN
    if isinstance(error, FileNotFoundError):
        if error.__cause__ is None:
            return _NO_FILE, True
        error = error.__cause__ if isinstance(error.__cause__, Exception) else error
    says = first_line(error)
    why = f"{type(error).__name__}: {says}" if says else type(error).__name__
    return why, isinstance(error, _NEVER) or type(error).__name__ == "NoCredentialsError"


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error of aiohttp's or botocore's."""
    status = getattr(error, "status", None)
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status if isinstance(status, int) and status >= 400 else None
