"""What the numbers of a benchmark were measured on."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def surroundings(*packages: str, more: str = "") -> dict[str, Any]:
    """The commit, the processor and the versions, as every file of results has them.

    Args:
        packages: Whose versions count, beside Python's.
        more: Said of the hardware, such as the number of threads.
    """
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    versions = {"python": platform.python_version()}
    return {
        "commit": subprocess.run(described, capture_output=True, text=True).stdout.strip(),
        "hardware": processor() + more,
        "versions": versions | {name: metadata.version(name) for name in packages},
    }


def processor() -> str:
    """The processor's name, and how many cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
