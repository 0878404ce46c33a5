"""Decisions made again from the journal: the same snapshots give the same plans, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from budgets.config import BudgetsConfig
from budgets.journal import records
from budgets.plan import Decision
from budgets.planner import plan
from budgets.reality import measured_on
from variants.catalog import Catalog, Frozen


class Replayed(Frozen):
    """One decision made again. `same` None: it cannot be (an error, an older format, another catalog), and `why`."""

    at: float
    same: bool | None
    why: str = ""


def replay_journal(path: Path, catalog: Catalog) -> Iterator[Replayed]:
    """Plan again from what every line of a journal file has seen, and compare byte for byte. As the controller does, by the
    profiles measured on the machine that the hosts were on."""
    config: BudgetsConfig | None = None
    for decision in records(path):
        config = decision.config or config
        if decision.snapshot is not None:
            catalog = measured_on(catalog, decision.snapshot.hosts)
        yield replay(decision, config, catalog)


def replay(decision: Decision, config: BudgetsConfig | None, catalog: Catalog) -> Replayed:
    """Plan again from what a decision has seen. `config`: the one in force then."""
    if decision.snapshot is None or decision.before is None or config is None:
        return Replayed(at=decision.at, same=None, why=decision.error or "the line does not say what was planned with")
    if fingerprint(config, catalog) != decision.inputs:
        return Replayed(at=decision.at, same=None, why="configuration or catalog are not those of then")
    again = plan(
        catalog,
        decision.snapshot,
        decision.pressures,
        decision.triggers,
        config,
        decision.before,
        decision.at,
        decision.outlook,
    )
    then = decision.proposed or decision.plan
    same = again.model_dump_json() == then.model_dump_json()
    return Replayed(at=decision.at, same=same, why="" if same else f"now: {again.model_dump_json()}")


def fingerprint(config: BudgetsConfig, catalog: Catalog) -> str:
    """What changes when the configuration or the catalog does, wherever its repository lies."""
    digest = hashlib.sha256(config.model_dump_json().encode())
    digest.update(catalog.model_dump_json(exclude={"refused": True, "entries": {"__all__": {"path"}}}).encode())
    return digest.hexdigest()[:16]
