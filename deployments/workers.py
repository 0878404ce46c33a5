"""Threads that carry out engine calls.

A `ThreadPoolExecutor` would do; its future, lock and condition for each call cost more than everything else between a
request's arrival and its engine call (docs/decisions/hot-path.md).
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

#: What to call. What that returns is to be called next, in the same thread.
Work = tuple[Callable[..., "Work | None"], tuple[Any, ...]]


class Workers:
    """`count` threads, started when there is something to do first. What they are given must not raise."""

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._work: SimpleQueue[Work | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Daemons, so that one stuck in an engine cannot keep the process for ever unnoticed by `close`; yet at exit those
        # that run something are waited for: native code must not lose its interpreter.
        self._finalizer = weakref.finalize(self, _leave, self._work, self._threads)

    def submit(self, function: Callable[..., Work | None], *arguments: Any) -> None:
        """Call it in one of the threads, and then there what it returns."""
        if not self._threads:
            for number in range(self._count):
                thread = threading.Thread(target=_serve, args=(self._work,), name=f"{self._name}_{number}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._work.put((function, arguments))

    def close(self) -> None:
        """Take no more work. What runs ends by itself."""
        for _ in self._threads:
            self._work.put(None)


def _serve(work: SimpleQueue[Work | None]) -> None:
    while (item := work.get()) is not None:
        while item is not None:
            function, arguments = item
            item = function(*arguments)
        del function, arguments  # what they hold must be free while the thread waits


def _leave(work: SimpleQueue[Work | None], threads: list[threading.Thread]) -> None:
    for _ in threads:
        work.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # the last reference may go in one of them
            thread.join()
