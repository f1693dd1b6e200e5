"""The board: an actor in which the dashboard shows a sweep's trials under their names.

By itself, so that its process loads nothing else.
"""

from __future__ import annotations

import asyncio


class Board:
    """An actor whose tasks are the trials, under their names: the dashboard shows them."""

    def __init__(self) -> None:
        self._over: dict[str, asyncio.Event] = {}

    async def trial(self, title: str) -> None:
        """Run as long as the trial does."""
        print(f"{title}: starts", flush=True)
        if title in self._over:
            return  # it runs again after an accident, and is listed already
        self._over[title] = asyncio.Event()
        await self._over[title].wait()

    async def tell(self, title: str, text: str, over: bool) -> None:
        """Write a line into the actor's log; end the trial's task when it is over."""
        print(f"{title}: {text}", flush=True)
        if over and title in self._over:
            self._over.pop(title).set()
