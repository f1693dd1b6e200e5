"""A prepared set that lies elsewhere: read by byte ranges, ahead of use, through a bounded cache.

`index.json` is fetched each time a set is opened; its hash names the set's folder in the cache, so
a set that was made anew is another one. Footers are fetched once. A row group is one request for
its bytes and one for its shard's stamp (size and ETag), which has to be the one that came with the
footer: bytes of two versions of a shard never mix. Row groups are kept as Arrow files, named after
their shard's stamp, and memory-mapped from then on.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from facerec.data import remote_cache
from facerec.data.byte_ranges import Pieces, ranges
from facerec.data.errors import DataError, first_line
from facerec.data.remote_store import Missing, Store

THREADS = 8  # that fetch row groups ahead
AHEAD = 64  # row groups asked for and not yet read, at most: four windows of the stream
_PARALLEL = 16  # small requests at once: footers, single columns
_TAIL = 32_768  # bytes from a shard's end that hold the footer of 16 groups with room to spare

Key = tuple[str, int]  # shard, number of the row group in it


@dataclass(frozen=True)
class _Shard:
    """What is known of a shard: its size and stamp when its footer was read, and the footer."""

    size: int
    stamp: str
    tail: Any  # pyarrow.Buffer

    @property
    def version(self) -> str:
        """What names this version of the shard in the cache."""
        return hashlib.sha256(f"{self.size} {self.stamp}".encode()).hexdigest()[:16]

    def metadata(self) -> Any:
        """The parsed footer; a Parquet file may be as short as its mark and its footer."""
        return pq.read_metadata(pa.BufferReader(b"PAR1" + self.tail.to_pybytes()))


class RemoteFiles:
    """The files of a prepared set below a URL.

    Args:
        url: as `facerec.data.place.url_of` gives it.

    Attributes:
        place: the URL.
        path: the set's folder in the cache: `index.json`, its tables, and what was read.

    Raises:
        DataError: there is no set, it cannot be reached, or the cache cannot be written.
    """

    def __init__(self, url: str) -> None:
        self.place = url
        self._store = Store(url)
        try:
            index = self._store.read("index.json")
        except Missing as error:
            raise DataError(
                f"{url} has no index.json: it is half-written or no prepared set"
            ) from error
        digest = hashlib.sha256(url.encode() + b"\n" + index).hexdigest()
        self.path = remote_cache.root() / digest / url.rpartition("/")[2]
        remote_cache.file(self.path / "index.json", lambda: index)
        self._shards: dict[str, _Shard] = {}
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._coming: OrderedDict[Key, Future[Any]] = OrderedDict()
        self._queue: deque[tuple[Key, Future[Any]]] = deque()
        self._threads = 0

    def __getstate__(self) -> dict[str, Any]:
        ours = ("_lock", "_coming", "_queue", "_threads")
        return {k: v for k, v in self.__dict__.items() if k not in ours}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def footers(self, split: str, files: Sequence[str]) -> Iterator[Any]:
        """The footers of a split's shards, in order; fetched once, and then from the cache.

        Raises:
            DataError: a shard is missing or damaged, or the server knows no byte ranges.
        """
        kept = remote_cache.table(
            self.path / f"{split}.footers", lambda: self._fetch_footers(files)
        )
        for file, size, stamp, tail in zip(*kept.columns, strict=True):
            shard = _Shard(size.as_py(), stamp.as_py(), tail.as_buffer())
            self._shards[file.as_py()] = shard
            yield self._metadata(file.as_py(), shard)

    def group(self, file: str, number: int, columns: Sequence[str]) -> Any:
        """Some columns of one row group; its images are views into a mapped file.

        Raises:
            DataError: it cannot be read, or the shard changed since it was opened.
        """
        with self._lock:
            coming = self._coming.pop((file, number), None)
        # What no thread has begun is fetched here and now, not behind others.
        late = coming is None or coming.cancel()
        table = self._group(file, number) if coming is None or late else coming.result()
        return table.select([name for name in columns if name in table.column_names])

    def columns(self, files: Sequence[str], names: Sequence[str]) -> Iterator[Any]:
        """Those of the columns that there are, one table per shard; no image is fetched.

        Raises:
            DataError: a shard cannot be read, or changed since it was opened.
        """
        return _in_threads(lambda file: self._columns(file, names), files)

    def prefetch(self, groups: Sequence[Key]) -> None:
        """Fetches row groups in a few threads, so that `group` finds them. Returns at once.

        What was asked for earlier and never read goes when there are too many.
        """
        asked = dict.fromkeys(groups[:AHEAD])
        with self._lock:
            for key in asked:
                if key not in self._coming:
                    self._coming[key] = Future()
                    self._queue.append((key, self._coming[key]))
            spare = [key for key in self._coming if key not in asked]
            for key in spare[: max(len(self._coming) - AHEAD, 0)]:
                self._coming.pop(key).cancel()
            for _ in range(min(THREADS, len(self._queue)) - self._threads):
                self._threads += 1
                threading.Thread(target=self._work, name="facerec-remote", daemon=True).start()

    def bring(self, entry: Mapping[str, Any]) -> None:
        """Fetches a table of the index whole, and checks its hash.

        Raises:
            DataError: it cannot be read, or is another than the index's.
        """
        file, wanted = str(entry["file"]), str(entry["sha256"])

        def fetch() -> bytes:
            content = self._store.read(file)
            if hashlib.sha256(content).hexdigest() != wanted:
                raise DataError(
                    f"{self.place}/{file}: is not the file that index.json names: the set changed, "
                    "or is being written; prepare it again, or wait and try again"
                )
            return content

        remote_cache.file(self.path / file, fetch)

    def _work(self) -> None:
        """One thread of the read-ahead: fetches what is asked for until nothing is."""
        while True:
            with self._lock:
                if not self._queue:
                    self._threads -= 1
                    return
                key, future = self._queue.popleft()
            if future.set_running_or_notify_cancel():  # else it was read or dropped before its turn
                try:
                    future.set_result(self._group(*key))
                except BaseException as error:  # whatever it is, it belongs to who waits for it
                    with self._lock:
                        if self._coming.get(key) is future:  # nobody yet: who reads it tries anew
                            del self._coming[key]
                    future.set_exception(error)

    def _group(self, file: str, number: int) -> Any:
        path = self.path / f"{file}.{self._shards[file].version}.{number}.arrow"
        return remote_cache.table(path, lambda: self._fetch(file, [number], None))

    def _columns(self, file: str, names: Sequence[str]) -> Any:
        shard = self._shards[file]
        metadata = self._metadata(file, shard)
        known = [name for name in names if name in metadata.schema.to_arrow_schema().names]
        if not known:
            return pa.table({})
        path = self.path / f"{file}.{shard.version}.{'+'.join(known)}.arrow"
        groups = range(metadata.num_row_groups)
        return remote_cache.table(path, lambda: self._fetch(file, groups, known))

    def _fetch(self, file: str, numbers: Sequence[int], names: Sequence[str] | None) -> Any:
        """Row groups of a shard; `names` are the columns, None is all."""
        shard = self._shards[file]
        metadata = self._metadata(file, shard)
        parts = [
            Pieces(shard.size, {a: self._store.read(file, a, b) for a, b in ranges(group, names)})
            for group in (metadata.row_group(number) for number in numbers)
        ]
        if self._store.stamp(file) != (shard.size, shard.stamp):
            self._changed(file)
        try:
            tables = []
            for number, pieces in zip(numbers, parts, strict=True):
                reader = pq.ParquetFile(pa.PythonFile(pieces), metadata=metadata, pre_buffer=False)
                chosen = None if names is None else list(names)
                tables.append(reader.read_row_group(number, chosen, use_threads=False))
            return pa.concat_tables(tables).combine_chunks()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.place}/{file} cannot be read: {first_line(error)}") from error

    def _changed(self, file: str) -> NoReturn:
        for footers in self.path.glob("*.footers"):  # what was read stays with its version
            footers.unlink(missing_ok=True)
        raise DataError(
            f"{self.place}/{file}: changed under its URL since it was opened, so that images of "
            "two sets would mix; the same command again reads the set as it is now"
        )

    def _fetch_footers(self, files: Sequence[str]) -> Any:
        if not self._shards:  # a server without ranges would send whole shards
            self._store.read("index.json", 0, 1)
        found = list(_in_threads(self._fetch_footer, files))
        return pa.table(
            {
                "file": pa.array(files, pa.string()),
                "size": pa.array([shard.size for shard in found], pa.int64()),
                "stamp": pa.array([shard.stamp for shard in found], pa.string()),
                "tail": pa.array([shard.tail.to_pybytes() for shard in found], pa.large_binary()),
            }
        )

    def _fetch_footer(self, file: str) -> _Shard:
        try:
            size, stamp = self._store.stamp(file)
            tail = self._store.read(file, max(size - _TAIL, 0), size)
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if tail[-4:] == b"PAR1" and len(tail) < length <= size:
                tail = self._store.read(file, size - length, size)
        except Missing as error:
            raise DataError(f"{self.place}: {file} is missing, index.json lists it") from error
        if tail[-4:] != b"PAR1" or length > size:
            raise DataError(f"{self.place}/{file} cannot be read: it does not end as Parquet does")
        return _Shard(size, stamp, pa.py_buffer(tail[-length:]))

    def _metadata(self, file: str, shard: _Shard) -> Any:
        try:
            return shard.metadata()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{self.place}/{file} cannot be read: {first_line(error)}") from error


def _in_threads(call: Callable[[str], Any], files: Sequence[str]) -> Iterator[Any]:
    """The results in order; what is left is dropped at the first error."""
    pool = ThreadPoolExecutor(_PARALLEL)
    try:
        yield from pool.map(call, files)
    finally:
        pool.shutdown(cancel_futures=True)
