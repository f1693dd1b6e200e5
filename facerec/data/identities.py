"""Whom the classes of a prepared set show: names by label, and whom two sets have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facerec.data.shards import Split


@dataclass(frozen=True)
class Identities:
    """The names of a set's classes.

    Attributes:
        names: Arrow strings (classes,), by label; null where a class has no name.
        source: Fingerprint of what the set was prepared from; empty where it is unknown.
    """

    names: Any
    source: str = ""

    @property
    def numbered(self) -> bool:
        """Whether all names are numbers, as RecordIO and lists give them: they hold in one source.

        Two such sources both begin at 0 and mean different people.
        """
        named = self.names.drop_null()
        return len(named) > 0 and bool(pc.all(pc.utf8_is_decimal(named)).as_py())

    def places(self, others: Identities) -> NDArray[np.int64]:
        """Where each class of this set stands among the classes of another, by name.

        Returns:
            The other's label (classes,), -1 where it has nobody of that name.
        """
        if self.source != others.source and self.source and others.source and self.numbered:
            return np.full(len(self.names), -1)
        found = pc.index_in(self.names, value_set=others.names, skip_nulls=True)
        return np.asarray(found.fill_null(-1).to_numpy(), np.int64)


def identities(split: Split, index: Mapping[str, Any]) -> Identities | None:
    """Read the names of a split's classes, shard by shard; no image is read.

    Args:
        split: One part of a prepared set.
        index: The set's `index.json`.

    Returns:
        None where the shards hold no names.

    Raises:
        DataError: A shard cannot be read any more.
    """
    place = np.full(split.classes, -1)  # of a label, in what was found
    found: list[Any] = []
    count = 0
    for table in split.tables(["label", "identity"]):
        if "identity" not in table.column_names:
            return None
        labels, rows = np.unique(table["label"].to_numpy(), return_index=True)
        new = (labels >= 0) & (place[np.maximum(labels, 0)] < 0)
        place[labels[new]] = count + np.arange(new.sum())
        found.append(table["identity"].combine_chunks().take(pa.array(rows[new])))
        count += len(found[-1])
    names = pa.chunked_array(found, pa.string()).take(pa.array(place, mask=place < 0))
    names = pc.if_else(pc.equal(names, ""), None, names).combine_chunks()
    return Identities(names, str(index.get("source", {}).get("fingerprint", "")))
