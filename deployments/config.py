"""How a host runs its models."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

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
    in-flight requests may take on the old engine."""

    threads: int | None = Field(default=None, ge=1)
    concurrent_batches: int | None = Field(default=None, ge=1)
    hold_seconds: float = Field(default=20.0, gt=0)
    drain_seconds: float = Field(default=10.0, gt=0)
    batching: Batching = Batching()
    models: Mapping[str, Batching] = {}

    def batching_of(self, model: str) -> Batching:
        """The model's batching, or the default."""
        return self.models.get(model, self.batching)
