"""Loads and unloads as orders to the controller."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from ray.exceptions import RayActorError

from server import repository
from server.repository import EveryHost
from variants.errors import Unavailable


class Method:
    """What a deployment handle has for a method."""

    def __init__(self, answer: Any, seconds: float = 0.0) -> None:
        self.answer, self.seconds = answer, seconds
        self.calls: list[tuple[str, ...]] = []

    async def remote(self, *arguments: str) -> Any:
        self.calls.append(arguments)
        await asyncio.sleep(self.seconds)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Handle:
    def __init__(self, repository: Method, reach: Method) -> None:
        self.repository, self.reach = repository, reach


async def test_an_order_goes_to_the_controller() -> None:
    handle = Handle(Method(""), Method(None))
    hosts = EveryHost(handle)
    await hosts.load("a")
    await hosts.unload("b")
    assert handle.repository.calls == [("load", "a"), ("unload", "b")]


async def test_what_a_host_says_is_told() -> None:
    hosts = EveryHost(Handle(Method("host h1: load failed: corrupt"), Method(None)))
    with pytest.raises(Unavailable, match="load of model 'a': host h1: load failed: corrupt"):
        await hosts.load("a")


@pytest.mark.parametrize("reach", [Method(RayActorError()), Method(None, seconds=60)], ids=["dead", "silent"])
async def test_nothing_is_done_when_the_controller_cannot_be_reached(
    reach: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "REACH_SECONDS", 0.02)
    handle = Handle(Method(""), reach)
    with pytest.raises(
        Unavailable, match="unload of model 'a': nothing was done, since the controller cannot be reached"
    ):
        await EveryHost(handle).unload("a")
    assert handle.repository.calls == []


async def test_a_controller_that_dies_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="did not say how it ended"):
        await EveryHost(Handle(Method(RayActorError()), Method(None))).unload("a")
