"""How a host runs its models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from pydantic.functional_validators import BeforeValidator

from budgets.config import parse_bytes
from variants.catalog import Frozen


class Batching(Frozen):
    """`max_batch` None: the model's own. `max_delay_seconds`: how long a request may wait for company when calls one by
    one would not keep up with the arrivals; None: a tenth of the model's latency objective, 0 where it has none.
    `queue`: requests that may wait; beyond it the least important one is refused. `timeout_seconds`: the default
    deadline of a request. `default_priority`: of requests that name none (1 is the highest)."""

    max_batch: int | None = Field(default=None, ge=1)
    max_delay_seconds: float | None = Field(default=None, ge=0)
    queue: int = Field(default=256, ge=1)
    timeout_seconds: float = Field(default=30.0, gt=0)
    default_priority: int = Field(default=4, ge=1)


class ShadowConfig(Frozen):
    """A sample of live requests, kept to try the next variant on: at most `samples` of each model (0: none is kept), taken
    at most `per_second`, in `bytes` of memory; a swap spends at most `seconds` on it."""

    samples: int = Field(default=32, ge=0)
    per_second: float = Field(default=4.0, gt=0)
    bytes: Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)] = 4 << 20
    seconds: float = Field(default=1.0, gt=0)


class HostConfig(Frozen):
    """`threads` of an engine call; None: half of the host's CPU share (cgroup quota, affinity), all of it on a GPU.
    `hold_seconds`: how long requests may wait while a model is drained for a break-before-make swap or loaded from its parking
    place. `drain_seconds`: how long in-flight requests may take on the old engine. `device`: where engines are loaded, `cpu` or
    `cuda:0`. `margin_bytes`: what must stay free beside two variants, or the old one goes before the new one is loaded.
    `weights`: of models (1 where not named), by which busy ones share the engines. `objectives`: latency objectives of
    models in seconds; batches and delays stay well within them."""

    threads: int | None = Field(default=None, ge=1)
    concurrent_batches: int | None = Field(default=None, ge=1)
    hold_seconds: float = Field(default=20.0, gt=0)
    drain_seconds: float = Field(default=10.0, gt=0)
    device: str = Field(default="cpu", pattern=r"^(cpu|cuda(:\d+)?)$")
    margin_bytes: Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)] = 64 << 20
    batching: Batching = Batching()
    shadow: ShadowConfig = ShadowConfig()
    models: Mapping[str, Batching] = {}
    weights: Mapping[str, Annotated[float, Field(gt=0)]] = {}
    objectives: Mapping[str, Annotated[float, Field(gt=0)]] = {}

    def batching_of(self, model: str) -> Batching:
        """The model's batching, or the default."""
        return self.models.get(model, self.batching)
