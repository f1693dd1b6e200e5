"""Who can reach a sweep's Ray: our own listens on loopback alone, and asks for a token there.

A Ray that was there before is somebody else's; what can be known of it is known here. What listens
where, and what a shared cluster needs: `docs/security.md`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ray._private import ray_constants

from facerec.config import ConfigError

_MODE = "RAY_AUTH_MODE"
_INTERFACE = "lo0" if sys.platform == "darwin" else "lo"
_LOOPBACK = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "GLOO_SOCKET_IFNAME": _INTERFACE,  # the processes of one trial, among themselves
    "NCCL_SOCKET_IFNAME": _INTERFACE,
}
_PATIENCE = 10  # seconds for an answer


@contextmanager
def locked() -> Iterator[None]:
    """Let a Ray that the block starts listen on loopback alone.

    (Ray gives a node the machine's own address, and its servers then listen on every interface;
    `ray.init` takes no loopback address instead. On macOS and Windows it chooses loopback itself:
    what tells it to does so elsewhere too.)

    Raises:
        ConfigError: Where the environment turns Ray's token off.
    """
    mode = os.environ.get(_MODE, "token")
    if mode.lower() != "token":
        raise ConfigError(
            f"{_MODE}={mode}: everyone who has an account on this machine could run programs as "
            f"you through the sweep's Ray; unset it, or give {_MODE}=token"
        )
    before = {name: os.environ.get(name) for name in _LOOPBACK}
    several, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ.update(_LOOPBACK)
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = several
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def knock(address: str) -> None:
    """See whether anyone listens at an address: Ray itself would try for many minutes.

    Raises:
        ConfigError: Where nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    if not colon or not port.isdigit():
        raise ConfigError(f"--address {address}: takes HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise silent(address, error.strerror or str(error)) from None


def silent(address: str, why: str) -> ConfigError:
    """Give the error of an address where no cluster answers."""
    return ConfigError(
        f"--address {address}: no Ray cluster answers there ({why}); leave --address out to start "
        "one on this machine"
    )


def check(address: str, dashboard: str) -> str:
    """Refuse a cluster whose dashboard lets anybody in; gives a warning where its ports do.

    Args:
        address: Of the cluster that was joined, as it was given.
        dashboard: URL of its dashboard, or nothing.

    Raises:
        ConfigError: Where the dashboard can be reached from elsewhere and asks for no token.
    """
    if dashboard and not is_loopback(urlsplit(dashboard).hostname or "") and is_open(dashboard):
        raise ConfigError(
            f"--address {address}: its dashboard at {dashboard} asks for no token, and whoever "
            f"reaches it can run programs on the cluster; start the cluster with {_MODE}=token, or "
            "with --dashboard-host 127.0.0.1 (docs/security.md)"
        )
    if os.environ.get(_MODE, "").lower() == "token" or _is_local(address):
        return ""
    return (
        f"warning: the cluster at {address} asks for no token: whoever reaches its ports can run "
        "programs on it (docs/security.md)"
    )


def _is_local(address: str) -> bool:
    return is_loopback(address.removeprefix("ray://").rpartition(":")[0])


def is_open(dashboard: str) -> bool:
    """Whether a dashboard answers a question for which it should want the token.

    One that cannot be reached from here is not open to us.
    """
    plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with plain.open(f"{dashboard}/api/version", timeout=_PATIENCE):
            return True
    except (urllib.error.URLError, OSError):
        return False


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
