"""The nodes of a Ray that is joined: which are lost, and whether they see the sweep's files."""

from __future__ import annotations

import hashlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import ray

from facerec.config import ConfigError, TrainConfig
from facerec.data import place

_LOOK = 5.0  # seconds between two looks
_PATIENCE = 30.0  # seconds until a file is seen that another node wrote: NFS remembers what was not
_AGAIN = 1.0  # seconds between two tries


class Nodes:
    """Watches nodes come and go.

    Args:
        clock: Seconds, upwards.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._looked = clock, -_LOOK
        self._known: dict[str, str] | None = None

    def look(self) -> list[str]:
        """Give lines about nodes that were lost or came; costs nothing just after another look."""
        now = self._clock()
        if now - self._looked < _LOOK:
            return []
        self._looked = now
        alive = {
            node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeManagerHostname']})"
            for node in ray.nodes()
            if node["Alive"]
        }
        known, self._known = self._known, alive
        if known is None:
            return []
        left = f"{len(alive)} node{'' if len(alive) == 1 else 's'}"
        return [
            *(
                f"node {name} is lost, {left} left; what ran there goes on from its checkpoints "
                "where there is room"
                for node, name in known.items()
                if node not in alive
            ),
            *(f"node {name} joins, {left}" for node, name in alive.items() if node not in known),
        ]


def here() -> str:
    """Give this node's name in messages: `10.0.0.2 (gpu-2)`."""
    return f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"


def digest(record: Path) -> str:
    """Give the hash of a file, by which a node knows that it sees the same one; empty without."""
    try:
        return hashlib.sha256(record.read_bytes()).hexdigest()
    except OSError:
        return ""


def check_sight(record: Path, wanted: str, config: TrainConfig) -> None:
    """Refuse to train on a node that does not see the sweep's folder, or the shards.

    (Training would not fail by itself: workers would begin at different checkpoints, and wait for
    one another.)

    Args:
        record: A file in the sweep's folder.
        wanted: Its `digest` where the sweep runs; empty checks no folder.
        config: Names the shards.

    Raises:
        ConfigError: Naming this node, and what it does not see.
    """
    deadline = time.monotonic() + _PATIENCE
    while wanted and digest(record) != wanted:
        if time.monotonic() > deadline:
            what = "has another sweep in" if record.exists() else "does not see"
            raise ConfigError(
                f"node {here()} {what} {record.parent}, the sweep's folder; give --storage DIR, a "
                "folder that all nodes share"
            )
        time.sleep(_AGAIN)
    names: list[str | Path] = [config.data.train, *config.data.eval_sets]
    for name in names:
        if not place.url_of(name) and not (place.folder_of(name) / "index.json").exists():
            raise ConfigError(
                f"node {here()} does not see the shards {name} (no index.json there); put them "
                "where all nodes have them under this path, or give a URL"
            )
