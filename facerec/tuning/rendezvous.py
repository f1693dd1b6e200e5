"""How a trial's workers find each other: at the address of their node alone.

PyTorch's store, through which they do, listens on every interface of the machine where Ray Train
makes it, and asks nobody who he is.
"""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct
import sys
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from facerec.launch import PATIENCE

_ANSWER = 30.0  # seconds that the store, which listens already, may take to answer
_SIOCGIFADDR = 0x8915  # Linux: the address of a network interface


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
            timeout=PATIENCE,
            wait_for_workers=False,
            master_listen_fd=listening.detach(),
        )
    ]
    return str(host), int(port)


def _join(host: str, port: int, rank: int, world_size: int, backend: str) -> None:
    """Join the process group, as a launcher would have let it."""
    os.environ["LOCAL_RANK"] = str(ray.train.get_context().get_local_rank())
    own = ray.util.get_node_ip_address()
    if found := interface_of(own):
        # Gloo would take the address of the host's name, which may be of this machine alone.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", found)
    if rank:
        knock(host, port, own)
    store = _served[0] if rank == 0 else _Store(host, port, world_size, timeout=PATIENCE)
    dist.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=PATIENCE
    )


def knock(host: str, port: int, own: str) -> None:
    """See whether a worker reaches the store: PyTorch itself would try for hours.

    Args:
        host: Address of the first worker's node.
        port: Of the store there.
        own: Address of this node.

    Raises:
        ConnectionError: Where it does not, naming both nodes.
    """
    try:
        socket.create_connection((host, port), timeout=_ANSWER).close()
    except OSError as error:
        raise ConnectionError(
            f"node {own} cannot reach node {host}, port {port} ({error.strerror or error}): the "
            "nodes of one trial need every TCP port above 1024 between them"
        ) from None


def interface_of(address: str) -> str:
    """Give the network interface that has an IPv4 address, `eth0`; empty where none is found."""
    try:
        wanted = ipaddress.IPv4Address(address)
    except ValueError:
        return ""
    if sys.platform != "linux":
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # it has none
            has = ipaddress.IPv4Address(answer[20:24])
            if has == wanted or (has.is_loopback and wanted.is_loopback):
                return name
    return ""
