"""What a swap takes and gives back, measured: the memory in use at its start and after each step that changes it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from deployments.calls import Loaded
from deployments.memory import Memory

log = logging.getLogger("trimtab.swap")


class Meter:
    """One swap's measurements. `thread` runs what blocks. `on` False: other loads run at the same time, so nothing that is
    measured would be this one's."""

    def __init__(self, memory: Memory, thread: Callable[..., Any], on: bool) -> None:
        self._memory = memory
        self._thread = thread
        self._on = on
        self._used: list[int] = []

    async def look(self) -> None:
        """Give freed memory back to the system, and note what is in use."""
        if self._on:
            try:
                self._used.append(await self._thread(_settled, self._memory))
            except OSError as error:
                log.warning("memory cannot be measured: %s", error)
                self._on, self._used = False, []

    async def account(self, new: Loaded) -> None:
        """How much a new engine took: what is in use now against before it was loaded."""
        await self.look()
        if len(self._used) >= 2:
            taken = self._used[-1] - self._used[-2]
            if taken > 0:
                new.resident_bytes, new.measured = taken, True

    @property
    def taken(self) -> int:
        """Bytes from the first look to the last; negative when they were given back."""
        return self._used[-1] - self._used[0] if len(self._used) >= 2 else 0


def _settled(memory: Memory) -> int:
    memory.trim()
    return memory.used()
