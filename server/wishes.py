"""Per-request wishes and priorities as clients write them, and where each request goes.

    parameter                header                               meaning
    min_quality              x-trimtab-min-quality                measured quality in [0, 1] at least
    latency_budget_seconds   x-trimtab-latency-budget-seconds     predicted seconds in the server at most
    variant                  x-trimtab-variant                    exactly this variant
    priority                 x-trimtab-priority                   1 is the highest; 0: the model's default (as Triton's)

Over gRPC the headers are metadata. A parameter counts where both are given. Numbers may be sent as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from budgets.wishes import Refusal, Wish, pick
from deployments.api import Host
from variants.errors import InvalidInput, UnknownModel, WishUnmet
from variants.tasks import PREFIX, Task, tasks

HEADERS: Mapping[str, str] = {
    "x-trimtab-min-quality": "min_quality",
    "x-trimtab-latency-budget-seconds": "latency_budget_seconds",
    "x-trimtab-variant": "variant",
    "x-trimtab-priority": "priority",
}
PARAMETERS = frozenset(HEADERS.values())
_BYTES = {header.encode(): name for header, name in HEADERS.items()}
NO_WISH = Wish()
#: The lowest priority that can be named.
MOST = (1 << 32) - 1


class Route(NamedTuple):
    """Where a request goes: the model, which variants may answer (None: all), and its priority (0: the default)."""

    model: str
    variants: frozenset[str] | None = None
    priority: int = 0


def from_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """Wishes among the headers of an HTTP request (lower-case names), by parameter."""
    return {name: headers[header].decode("latin-1") for header, name in _BYTES.items() if header in headers}


def from_metadata(metadata: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Wishes among the metadata of a gRPC call, by parameter."""
    return {HEADERS[key]: str(value) for key, value in metadata if key in HEADERS}


class Wishes:
    """Finds the route of each request on a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.tasks: Mapping[str, Task] = tasks(entry.model for entry in host.catalog.entries.values())

    def task(self, name: str, version: str = "") -> Task | None:
        """The task of a name such as `tasks/embed`; None for a model's name. Raises UnknownModel."""
        if not name.startswith(PREFIX):
            return None
        task = self.tasks.get(name.removeprefix(PREFIX))
        if task is None:
            known = ", ".join(sorted(PREFIX + t for t in self.tasks)) or "none; models name theirs in `serves`"
            raise UnknownModel(f"no task {name!r}; there are: {known}")
        if version not in ("", "1"):
            raise UnknownModel(f"task {name!r} has no version {version!r}; it has '1'")
        return task

    def route(self, name: str, version: str, parameters: Mapping[str, Any], rows: int) -> Route:
        """Where a request with these parameters and `rows` in its batch goes.

        Raises UnknownModel, InvalidInput for a wish that makes no sense, WishUnmet for one that cannot be met now.
        """
        task = self.task(name, version)
        if task is None and PARAMETERS.isdisjoint(parameters):
            return Route(name)
        wish, priority = read(parameters)
        if task is None and wish == NO_WISH:
            return Route(name, None, priority)
        named = task.models if task is not None else (name,)
        models = [model for model in named if self._host.status(model).state != "UNAVAILABLE"]
        if not models:
            return Route(named[0], None, priority)  # the host says why
        candidates = [self._host.candidate(model, rows, priority) for model in models]
        known = {variant for candidate in candidates for variant in candidate.qualities}
        if wish.variant is not None and wish.variant not in known:
            raise InvalidInput(
                f"parameter 'variant': {name!r} has no variant {wish.variant!r}; there are: {', '.join(sorted(known))}"
            )
        choice = pick(candidates, wish)
        if isinstance(choice, Refusal):
            raise WishUnmet(choice.message, available=choice.available, retry_after_seconds=choice.retry_after_seconds)
        return Route(choice.model, None if wish == NO_WISH else choice.variants, priority)


def read(parameters: Mapping[str, Any]) -> tuple[Wish, int]:
    """The wish and the priority among a request's parameters. Raises InvalidInput naming the parameter."""
    quality = _number(parameters, "min_quality")
    if quality is not None and not 0 <= quality <= 1:
        raise InvalidInput(f"parameter 'min_quality': {quality} must be from 0 to 1")
    budget = _number(parameters, "latency_budget_seconds")
    if budget is not None and not budget > 0:
        raise InvalidInput(f"parameter 'latency_budget_seconds': {budget} must be above 0")
    variant = parameters.get("variant")
    if variant is not None and (not isinstance(variant, str) or not variant):
        raise InvalidInput(f"parameter 'variant': {variant!r} must be a variant's name")
    priority = parameters.get("priority", 0)
    if isinstance(priority, str) and priority.isascii() and priority.isdigit():
        priority = int(priority)
    if type(priority) is not int or not 0 <= priority <= MOST:
        raise InvalidInput(f"parameter 'priority': {priority!r} must be a whole number from 0 to {MOST}")
    return Wish(quality, budget, variant), priority


def _number(parameters: Mapping[str, Any], name: str) -> float | None:
    value = parameters.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"parameter {name!r}: {value!r} must be a number") from None
