"""What a preparation shows while it runs."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeRemainingColumn

_WARNINGS = 20  # so many are printed, the rest is counted


class Screen:
    """Progress and warnings on stderr; the bar only on a terminal."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            "{task.description:>15}",
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = TaskID(0)
        self._warned = 0

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._warned > _WARNINGS:
            self._print(f"warning: and {self._warned - _WARNINGS} more")

    def start(self, task: str, total: int) -> None:
        """Adds a bar."""
        self._task = self._progress.add_task(task, total=total)

    def advance(self, images: int) -> None:
        """Moves the newest bar."""
        self._progress.advance(self._task, images)

    def warn(self, message: str) -> None:
        """Prints one line."""
        self._warned += 1
        if self._warned <= _WARNINGS:
            self._print(f"warning: {message}")

    def _print(self, line: str) -> None:
        self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
