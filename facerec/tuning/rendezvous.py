"""How a trial's workers find each other: at the address of their node alone.

PyTorch's store, through which they do, listens on every interface of the machine where Ray Train
makes it, and asks nobody who he is.
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

_PATIENCE = timedelta(minutes=30)  # for a collective operation; PyTorch's own is of this order


class OwnAddress(TorchConfig):  # type: ignore[misc]  # Ray has no types
    """Ray Train's PyTorch, with a store that listens on the address by which Ray knows the node."""

    @property
    def backend_cls(self) -> type:
        """Who starts the process group."""
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]  # Ray has no types
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        """Start the process group on all workers."""
        workers = range(len(worker_group))
        gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        host, port = worker_group.execute_single(0, _serve, len(workers))
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, host, port, rank, len(workers), "nccl" if gpu else "gloo"
                )
                for rank in workers
            ]
        )


_Store: Any = dist.TCPStore  # type: ignore[attr-defined]
_served: list[Any] = []  # the store of this process, while it lives


def _serve(world_size: int) -> tuple[str, int]:
    """Open the store; gives its address."""
    listening = socket.create_server((ray.util.get_node_ip_address(), 0))
    host, port = listening.getsockname()[:2]
    _served[:] = [
        _Store(
            host,
            port,
            world_size,
            is_master=True,
            timeout=_PATIENCE,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    ]
    return str(host), int(port)


def _join(host: str, port: int, rank: int, world_size: int, backend: str) -> None:
    """Join the process group, as a launcher would have let it."""
    os.environ["LOCAL_RANK"] = str(ray.train.get_context().get_local_rank())
    store = _served[0] if rank == 0 else _Store(host, port, world_size, timeout=_PATIENCE)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=_PATIENCE
    )
