"""How a host runs its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from pydantic.functional_validators import BeforeValidator

from budgets.config import parse_bytes
from variants.catalog import Frozen


class Batching(Frozen):
    """`max_batch` None: the model's own. `max_delay_seconds`: how long the first request may wait for company.
    `queue`: requests that may wait; one more is refused. `timeout_seconds`: the default deadline of a request."""

    max_batch: int | None = Field(default=None, ge=1)
    max_delay_seconds: float = Field(default=0.0, ge=0)
    queue: int = Field(default=256, ge=1)
    timeout_seconds: float = Field(default=30.0, gt=0)


class HostConfig(Frozen):
    """`threads` None: the host's CPU share (cgroup quota, affinity). `hold_seconds`: how long requests may wait while
    a model is drained for a break-before-make swap or loaded from its parking place. `drain_seconds`: how long
    in-flight requests may take on the old engine. `device`: where engines are loaded, `cpu` or `cuda:0`.
    `margin_bytes`: what must stay free beside two variants, or the old one goes before the new one is loaded."""

    threads: int | None = Field(default=None, ge=1)
    concurrent_batches: int | None = Field(default=None, ge=1)
    hold_seconds: float = Field(default=20.0, gt=0)
    drain_seconds: float = Field(default=10.0, gt=0)
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    margin_bytes: Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)] = 64 << 20
    batching: Batching = Batching()
    models: Mapping[str, Batching] = {}

    def batching_of(self, model: str) -> Batching:
        """The model's batching, or the default."""
        return self.models.get(model, self.batching)
