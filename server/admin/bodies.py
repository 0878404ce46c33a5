"""Bodies and queries of the admin API: what is accepted, as types. `Override` (budgets) is the body of a budget's PATCH."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from variants.catalog import Frozen


class Strict(Frozen):
    """JSON as it is: no number for a text, no text for a number."""

    model_config = ConfigDict(strict=True)


class OfModel(Strict):
    """Names a model."""

    model: str = Field(min_length=1, max_length=256)


class Swap(OfModel):
    """Move a model to a variant, once."""

    variant: str = Field(min_length=1, max_length=256)


class Pin(OfModel):
    """Keep a model on a variant; null parks it."""

    variant: str | None = Field(min_length=1, max_length=256)


class Unpin(OfModel):
    """Give a model back to the controller."""


class Park(OfModel):
    """Take a model out of memory until it is unpinned; its next request loads it. That the policy's `park` is false keeps
    the controller from it, not the operator."""


class ClearQuarantine(OfModel):
    """Let a variant be planned again; null: being parked."""

    variant: str | None = Field(min_length=1, max_length=256)


class ExplainQuery(Frozen):
    """Of one model, or of all."""

    model: str | None = Field(default=None, min_length=1, max_length=256)


class WhatIfQuery(Frozen):
    """A memory budget, and by how many bytes its limit would be larger (negative: smaller)."""

    budget: str = Field(min_length=1, max_length=256)
    delta_bytes: int = Field(ge=-(1 << 60), le=1 << 60)


class DecisionsQuery(Frozen):
    """Decisions older than `before` (unix seconds; default: all there are), `limit` of them."""

    before: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    limit: int = Field(default=50, ge=1, le=500)


class NoQuery(Frozen):
    """Nothing may be asked."""
