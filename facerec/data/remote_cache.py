"""The bounded cache of what was read elsewhere: files in `$XDG_CACHE_HOME/facerec/remote`.

What stands under its name is whole: each file is written aside under a lock that the kernel frees
with its process, made durable, and renamed. So processes that want one file at once fetch it once,
and a killed one leaves nothing that looks whole. Of the files that end in `.arrow` those used
longest ago go first when the cache is full. A file that goes while it is mapped stays readable
to whoever mapped it.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from facerec.data.errors import DataError, first_line
from facerec.data.writer import sync

LIMIT_GB = 20.0  # 10^9 bytes each: some four million faces of 112 pixels
_EASED = 0.9  # of the limit is left when files go, so that they do not go one by one
_DIGITS = 20  # of the count of bytes, kept in the lock's file


def root() -> Path:
    """The cache's folder, made where there is none.

    Raises:
        DataError: It cannot be written.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = home / "facerec" / "remote"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from None
    return folder


def limit(used: int = 0) -> int:
    """Bytes that the cache may take: `FACEREC_CACHE_GB`, and no more than half of the free space.

    Args:
        used: Bytes that it takes now, which would be free without it.

    Raises:
        DataError: `FACEREC_CACHE_GB` is no number of 0 or more.
    """
    given = os.environ.get("FACEREC_CACHE_GB", "")
    try:
        gigabytes = float(given) if given else LIMIT_GB
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise DataError(
            f"FACEREC_CACHE_GB = {given}: takes a number of 0 or more, such as {LIMIT_GB:g}"
        )
    free = shutil.disk_usage(root()).free
    return min(int(gigabytes * 1e9), (free + used) // 2)


def table(path: Path, make: Callable[[], Any]) -> Any:
    """An Arrow table by its file, memory-mapped; made and kept where it is not there.

    Args:
        path: Its file below `root()`.
        make: Gives the table. Where the cache has no room, this table itself is given back.
    """
    found = _mapped(path)
    if found is not None:
        return found
    made = None
    with _claimed(path) as aside:
        found = _mapped(path)  # another process may have made it meanwhile
        if found is None:
            made = make()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_file(sink, made.schema) as writer:
                writer.write_table(made)
            if _publish(aside, path, sink.getvalue()):
                found = _mapped(path)
    return made if found is None else found


def file(path: Path, make: Callable[[], bytes]) -> None:
    """Sees to it that a file is there.

    Args:
        path: The file below `root()`.
        make: Gives its bytes.

    Raises:
        DataError: The cache has no room for it.
    """
    if path.exists():
        return
    with _claimed(path) as aside:
        if not path.exists():
            content = make()
            if not _publish(aside, path, content):
                raise DataError(
                    f"{path}: no room for {len(content):,} bytes in a cache of "
                    f"{limit(_used()):,}; give FACEREC_CACHE_GB, a larger limit, or set "
                    "XDG_CACHE_HOME to a folder with more space"
                )


def _mapped(path: Path) -> Any:
    """The table of a file, or None; a damaged file is removed."""
    try:
        found = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        os.utime(path)  # used now; the clock of access times may be turned off
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException):
        path.unlink(missing_ok=True)
        return None
    return found


@contextmanager
def _claimed(path: Path) -> Iterator[Path]:
    """The file aside, locked: one process at a time makes what goes to `path`."""
    aside = path.with_name(path.name + ".part")
    try:
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(aside, os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.stat(aside).st_ino == os.fstat(handle).st_ino:
                    break
            os.close(handle)  # it was renamed, or removed, while this process waited
    except OSError as error:
        raise _unwritable(path.parent, error) from None
    try:
        yield aside
    finally:
        with suppress(FileNotFoundError):
            if os.stat(aside).st_ino == os.fstat(handle).st_ino:
                aside.unlink()
        os.close(handle)


def _publish(aside: Path, path: Path, content: Any) -> bool:
    """Writes a file aside and gives it its name, where the cache has room for it."""
    try:
        aside.write_bytes(content)
        sync(aside)
        with _counted() as (count, put):
            used = _make_room(count, len(content))
            if used is None:
                return False
            put(used + len(content))  # before the file is there: a kill may count it in vain
            aside.rename(path)
    except OSError:  # a full disk, or the folder was removed: the bytes are in memory all the same
        return False
    return True


@contextmanager
def _counted() -> Iterator[tuple[int | None, Callable[[int], None]]]:
    """The bytes of the cache as counted so far (None: unknown), and how to say the new count."""
    handle = os.open(root() / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        said = os.pread(handle, _DIGITS, 0)
        count = int(said) if len(said) == _DIGITS and said.isdigit() else None
        yield count, lambda new: _put(handle, new)
    finally:
        os.close(handle)


def _put(handle: int, count: int) -> None:
    os.pwrite(handle, f"{count:0{_DIGITS}d}".encode(), 0)


def _make_room(count: int | None, size: int) -> int | None:
    """Bytes used once there is room for `size` more; None where there can be none."""
    if count is not None and count + size <= limit(count):
        return count
    files = list(_files())
    used = sum(held for _, held, _ in files)
    bound = limit(used)
    if used + size <= bound:
        return used
    for _, held, path in sorted(files):
        if used + size <= bound * _EASED:
            break
        if path.suffix == ".arrow":
            path.unlink(missing_ok=True)
            used -= held
    return used if used + size <= bound else None


def _files() -> Iterator[tuple[int, int, Path]]:
    """When each whole file was used, its bytes and its path; what killed processes left goes."""
    for parent, _, names in os.walk(root()):
        for path in (Path(parent, name) for name in names if name != ".lock"):
            with suppress(FileNotFoundError):
                if path.suffix == ".part":
                    _sweep(path)
                else:
                    status = path.stat()
                    yield status.st_mtime_ns, status.st_size, path


def _used() -> int:
    return sum(size for _, size, _ in _files())


def _sweep(aside: Path) -> None:
    with aside.open("rb") as handle, suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        aside.unlink()


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"{folder}: cannot be written ({error.strerror or first_line(error)}); set XDG_CACHE_HOME "
        "to a folder of yours"
    )
