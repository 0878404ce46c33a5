"""What a host does next."""

from __future__ import annotations

import pytest

from deployments.agenda import Agenda, direction, needs
from deployments.api import Assignment


@pytest.fixture
def catalog(lab):
    return lab.catalog({"a": {}, "b": {}})


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("best", "cheap", "degrade"),
        ("cheap", "best", "restore"),
        ("cheap", None, "degrade"),
        (None, "cheap", "restore"),
        ("best", "stray", "degrade"),
        ("stray", "mid", "restore"),
    ],
)
async def test_direction(catalog, before, after, expected):
    entry = catalog.entries["a"]
    stray = entry.variants["cheap"].model_copy(update={"name": "stray", "profiles": ()})
    entry = entry.model_copy(update={"variants": {**entry.variants, "stray": stray}})
    assert direction(entry, "test", before, after) == expected


async def test_needs(catalog):
    entry = catalog.entries["a"]
    assert needs(entry, "test", "best") == 300_000_000
    assert needs(entry, "other device", "best") == needs(entry, "test", None) == 0


async def test_waiting_requests_first_then_by_hand_then_degrades_then_restores(catalog):
    agenda = Agenda(catalog)
    assert agenda.assign(Assignment(1, {"a": "best", "b": "cheap"}), {"a": "cheap", "b": "best"}) == {}
    agenda.by_hand("unload", "a")
    agenda.wake("b")
    kinds = []
    while (work := agenda.next()) is not None:
        kinds.append((work.kind, work.model, work.target.variant))
    assert kinds == [("wake", "b", "cheap"), ("unload", "a", None), ("swap", "b", "cheap"), ("swap", "a", "best")]


async def test_a_newer_plan_replaces_what_is_left(catalog):
    agenda = Agenda(catalog)
    agenda.assign(Assignment(1, {"a": "mid", "b": "cheap"}), {})
    agenda.assign(Assignment(2, {"a": "cheap"}, {"a": "break_before_make"}), {})
    work = agenda.next()
    assert (work.model, work.target.variant, work.target.mode, work.target.generation) == (
        "a", "cheap", "break_before_make", 2,
    )  # fmt: skip
    assert agenda.next() is None
    assert agenda.assign(Assignment(2, {"a": "best"}), {}) is None


async def test_what_a_model_is_brought_up_as(catalog):
    agenda = Agenda(catalog)
    assert agenda.best("a") == "best"
    agenda.assign(Assignment(1, {"a": "mid", "b": None}), {})
    assert (agenda.best("a"), agenda.best("b")) == ("mid", "cheap")
