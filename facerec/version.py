"""Which version of the program this is."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from importlib import metadata
from pathlib import Path


def version() -> str:
    """Give the installed version; `unknown` where the program is not installed."""
    try:
        return metadata.version("facerec")
    except metadata.PackageNotFoundError:
        return "unknown"


@lru_cache(maxsize=1)
def commit() -> str:
    """Give the commit of the program's own checkout, marked where it was changed; else nothing."""
    here = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*here, "rev-parse", "--short=12", "HEAD"], capture_output=True)
        changed = subprocess.run([*here, "status", "--porcelain", "-uno"], capture_output=True)
    except OSError:
        return ""
    if head.returncode:
        return ""
    return head.stdout.decode().strip() + ("-changed" if changed.stdout.strip() else "")
