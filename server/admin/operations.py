"""The table of the admin API's operations: where each is, what it takes, who may call it, what it does.

`server.admin.app` serves it and `server.admin.openapi` describes it; nothing else needs to know of an operation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from budgets.overrides import Override
from server.admin import bodies
from server.admin.control import Control
from server.admin.reload import Reloader
from server.auth import Role
from variants.errors import Conflict, UnknownBudget


@dataclass(frozen=True)
class Call:
    """One request, understood: the path's parameter, the query and the body."""

    control: Control
    reloader: Reloader
    name: str
    query: Any
    body: Any

    @property
    def model(self) -> str | None:
        """The one model that the call is about, or None when it concerns all."""
        found = getattr(self.body, "model", None) or getattr(self.query, "model", None)
        return found if isinstance(found, str) else None


@dataclass(frozen=True)
class Operation:
    """`path` is below `/admin/v1/`; `{name}` stands for one segment. `schema` names the answer's schema."""

    method: str
    path: str
    role: Role
    summary: str
    schema: str
    run: Callable[[Call], Awaitable[Any]]
    body: type[BaseModel] | None = None
    query: type[BaseModel] = bodies.NoQuery
    status: int = 200
    errors: tuple[int, ...] = ()


async def _status(call: Call) -> Any:
    return call.control.status()


async def _plan(call: Call) -> Any:
    return call.control.plan()


async def _decisions(call: Call) -> Any:
    return await call.control.decisions(call.query.before, call.query.limit)


async def _explain(call: Call) -> Any:
    return call.control.explain(call.query.model)


async def _what_if(call: Call) -> Any:
    return call.control.what_if(call.query.budget, call.query.delta_bytes)


async def _swap(call: Call) -> Any:
    return await call.control.swap(call.body.model, call.body.variant)


async def _pin(call: Call) -> Any:
    return call.control.pin(call.body.model, call.body.variant)


async def _unpin(call: Call) -> Any:
    return call.control.unpin(call.body.model)


async def _park(call: Call) -> Any:
    return call.control.pin(call.body.model, None)


async def _clear(call: Call) -> Any:
    if not call.control.lift(call.body.model, call.body.variant):
        raise Conflict(f"{call.body.model}/{call.body.variant or 'parked'} is not quarantined")
    return {"model": call.body.model, "variant": call.body.variant}


async def _budgets(call: Call) -> Any:
    return {"budgets": call.control.budgets()}


def _one(call: Call) -> Any:
    budgets = call.control.budgets()
    found = next((b for b in budgets if b["name"] == call.name), None)
    if found is None:
        raise UnknownBudget(f"no budget {call.name!r}; there are: {', '.join(b['name'] for b in budgets) or 'none'}")
    return found


async def _budget(call: Call) -> Any:
    return _one(call)


async def _change(call: Call) -> Any:
    call.control.override(call.name, call.body)
    return _one(call)


async def _reset(call: Call) -> Any:
    call.control.reset(call.name)
    return _one(call)


async def _reload(call: Call) -> Any:
    return call.reloader.reload()


OPERATIONS: tuple[Operation, ...] = (
    Operation("GET", "status", "read", "Budgets, triggers, and what each model runs", "Status", _status),
    Operation("GET", "plan", "read", "What would be done next, and why not yet; nothing is done", "Plan", _plan),
    Operation(
        "GET", "decisions", "read", "Past decisions, newest first", "Decisions", _decisions, query=bodies.DecisionsQuery
    ),
    Operation(
        "GET",
        "explain",
        "read",
        "Why each model runs what it runs, in sentences",
        "Explanation",
        _explain,
        query=bodies.ExplainQuery,
        errors=(404,),
    ),
    Operation(
        "GET",
        "what-if",
        "read",
        "The swaps that would follow if a memory budget had another limit; nothing is done",
        "WhatIf",
        _what_if,
        query=bodies.WhatIfQuery,
        errors=(404, 409),
    ),
    Operation(
        "POST",
        "swap",
        "operate",
        "Move a model once; the controller may move it again after its cooldown",
        "Swap",
        _swap,
        bodies.Swap,
        status=202,
        errors=(404, 409),
    ),
    Operation(
        "POST",
        "pin",
        "operate",
        "Keep a model on a variant until it is unpinned",
        "Pins",
        _pin,
        bodies.Pin,
        errors=(404,),
    ),
    Operation(
        "POST", "unpin", "operate", "Give a model back to the controller", "Pins", _unpin, bodies.Unpin, errors=(404,)
    ),
    Operation(
        "POST",
        "park",
        "operate",
        "Take a model out of memory until it is unpinned; its next request loads it",
        "Pins",
        _park,
        bodies.Park,
        errors=(404,),
    ),
    Operation("GET", "budgets", "read", "Every budget as it is in force", "Budgets", _budgets),
    Operation("GET", "budgets/{name}", "read", "One budget", "Budget", _budget, errors=(404,)),
    Operation(
        "PATCH",
        "budgets/{name}",
        "operate",
        "Change a budget at run time; a null is the file's value again",
        "Budget",
        _change,
        Override,
        errors=(404,),
    ),
    Operation(
        "DELETE", "budgets/{name}", "operate", "Give a budget the file's values back", "Budget", _reset, errors=(404,)
    ),
    Operation(
        "POST",
        "quarantine/clear",
        "operate",
        "Let a variant that failed be planned again",
        "Cleared",
        _clear,
        bodies.ClearQuarantine,
        errors=(404, 409),
    ),
    Operation("POST", "reload", "operate", "Read the configuration file again", "Reloaded", _reload, errors=(409,)),
)
