"""Memory that a training on the CPU gives back only when it ends.

Each step makes and frees the same large tensors. By its own rule the GNU C library asks the kernel
for each of them anew, and the kernel clears it page by page: for `iresnet18` a fifth of the step's
time (`docs/performance.md`).
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Parameters of mallopt(3), and where the library's own rule ends up when large blocks come and go.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_OWN_RULE = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))
_lock = threading.Lock()
_trainings = 0  # of this process, that run now


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Keep what is freed for the next step; afterwards it goes back to the system.

    It is the process's, not a thread's. Does nothing on accelerators, whose memory PyTorch keeps,
    and where the C library is another one (macOS, musl).

    Args:
        device: Where the training runs.
    """
    library = _gnu() if device.type == "cpu" else None
    if library is None:
        yield
        return
    global _trainings
    with _lock:
        _trainings += 1
        library.mallopt(_MMAP_MAX, 0)  # large blocks lie on the heap, too
        library.mallopt(_TRIM_THRESHOLD, -1)  # and its end is never given back
    try:
        yield
    finally:
        with _lock:
            _trainings -= 1
            if not _trainings:
                for parameter, value in _OWN_RULE:
                    library.mallopt(parameter, value)
                library.malloc_trim(0)


def _gnu() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 (only that one has it)
    except (OSError, AttributeError, TypeError):
        return None
    return library
