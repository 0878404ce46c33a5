"""Budgets changed at run time: laid over the configuration file's, kept in the journal, taken back one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic.functional_validators import BeforeValidator

from budgets.config import MOST_BYTES, Budget, BudgetsConfig, Bytes, parse_bytes
from variants.catalog import Frozen
from variants.errors import InvalidInput

Amount = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
SIZE = r"^[1-9][0-9]{0,8}(\.[0-9]{1,6})? ?(([KMG]i?)?B)?$"


def _size(minimum: int) -> WithJsonSchema:
    """A size as people and programs write it; null gives it back to the file."""
    number = {"type": "integer", "minimum": minimum, "maximum": MOST_BYTES}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": SIZE}, {"type": "null"}]})


class Override(Frozen):
    """What was changed of one budget; None: as the file has it. Units and bounds are those of `Budget`."""

    model_config = ConfigDict(strict=True)

    limit: Annotated[Bytes | None, _size(1)] = None
    limit_fraction: float | None = Field(default=None, gt=0, le=1)
    enter: float | None = Field(default=None, gt=0)
    exit: float | None = Field(default=None, gt=0)
    enter_seconds: float | None = Field(default=None, ge=0)
    exit_seconds: float | None = Field(default=None, ge=0)
    reserve: Annotated[Amount | None, _size(0)] = None

    def changes(self) -> dict[str, Any]:
        """The fields that differ from the file."""
        return self.model_dump(exclude_none=True)

    def then(self, later: Override) -> Override:
        """This override with a later one's fields laid over it; one that was set to None there is the file's again."""
        merged = {**self.model_dump(), **later.model_dump(include=later.model_fields_set)}
        for field, rival in (("limit", "limit_fraction"), ("limit_fraction", "limit")):
            if field in later.model_fields_set and getattr(later, field) is not None:
                merged[rival] = None
        return Override.model_validate(merged)


def overlaid(config: BudgetsConfig, overrides: Mapping[str, Override]) -> BudgetsConfig:
    """The configuration with overrides laid over its budgets. A limit in bytes takes the place of a fraction, and the
    other way round. Raises InvalidInput naming the budget and what does not fit."""
    if not overrides:
        return config
    changed = []
    for budget in config.budgets:
        changes = overrides.get(budget.name, Override()).changes()
        if "limit" in changes:
            changes["limit_fraction"] = None
        elif "limit_fraction" in changes:
            changes["limit"] = None
        try:
            changed.append(Budget.model_validate({**budget.model_dump(), **changes}) if changes else budget)
        except ValidationError as error:
            raise InvalidInput(f"budget {budget.name!r}: {_words(error)}") from error
    try:
        return BudgetsConfig.model_validate({**config.model_dump(), "budgets": [b.model_dump() for b in changed]})
    except ValidationError as error:
        raise InvalidInput(_words(error)) from error


def still_valid(config: BudgetsConfig, overrides: Mapping[str, Override]) -> tuple[dict[str, Override], list[str]]:
    """Those overrides that the configuration takes, and why each of the others was dropped (the file has changed)."""
    kept: dict[str, Override] = {}
    dropped: list[str] = []
    known = {b.name for b in config.budgets}
    for name, override in overrides.items():
        if name not in known:
            dropped.append(f"budget {name!r} is no longer configured")
            continue
        try:
            overlaid(config, {name: override})
        except InvalidInput as error:
            dropped.append(str(error))
        else:
            kept[name] = override
    return kept, dropped


def _words(error: ValidationError) -> str:
    def one(item: Any) -> str:
        where = ".".join(str(part) for part in item["loc"] if not isinstance(part, int) and part != "budgets")
        what = str(item["msg"]).removeprefix("Value error, ")
        return f"{where}: {what}" if where else what

    return "; ".join(one(item) for item in error.errors())
