"""What a model host offers to those who reach it (`server`) and those who steer it (`deployments.app`)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from budgets.config import DEFAULT_GROUP
from budgets.snapshot import HostState, Mode, Serving, Staged
from budgets.wishes import Candidate
from variants.catalog import Catalog
from variants.engines.base import Array, Tensors

SlotState = Literal["READY", "LOADING", "PARKED", "UNAVAILABLE"]


class Answer(NamedTuple):
    """One request's outputs by name, the variant that computed them, and how long each stage took (seconds)."""

    outputs: dict[str, Array]
    variant: str
    queue_seconds: float
    compute_seconds: float
    batch: int


@dataclass(frozen=True)
class ModelStatus:
    """`variant` in force (None: parked or unavailable); `reason` says why it is not READY. `unloaded`: it was taken out of
    service on request, so that it is not READY is as it should be."""

    state: SlotState
    variant: str | None
    reason: str = ""
    unloaded: bool = False


@dataclass(frozen=True)
class Duration:
    """The V2 statistics extension's pair: how many, and their total nanoseconds."""

    count: int = 0
    ns: int = 0


@dataclass(frozen=True)
class Statistics:
    """Counters of one model since the host started (V2 statistics extension). Times are nanoseconds, `last_inference`
    is milliseconds since the epoch. `batches`: batch size -> engine calls of that size. Of a call, joining requests is
    `compute_input`, the engine `compute`, taking the answers apart `compute_output`."""

    inference_count: int = 0
    execution_count: int = 0
    last_inference: int = 0
    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute: Duration = Duration()
    compute_output: Duration = Duration()
    batches: Mapping[int, Duration] = field(default_factory=dict)
    batch_inputs: Mapping[int, Duration] = field(default_factory=dict)
    batch_outputs: Mapping[int, Duration] = field(default_factory=dict)


@dataclass(frozen=True)
class Assignment:
    """A plan as a host gets it (the deployment's `user_config`). Models that it does not name keep what they run; `staged`
    are those that the named hosts run another variant of, on trial. `groups`: other plans, each with its own generation,
    for the hosts of these groups. `serving`: how models are to be served; the others as before. `unloaded`: models that are
    out of service in all groups, whatever the plans say, after so many `orders` to load or unload one."""

    generation: int
    variants: Mapping[str, str | None]
    modes: Mapping[str, Mode] = field(default_factory=dict)
    staged: Mapping[str, Staged] = field(default_factory=dict)
    groups: Mapping[str, Assignment] = field(default_factory=dict)
    serving: Mapping[str, Serving] = field(default_factory=dict)
    unloaded: frozenset[str] = frozenset()
    orders: int = 0

    def on(self, host: str, group: str = DEFAULT_GROUP) -> Assignment:
        """What one host is to run."""
        plan = self.groups.get(group, self)
        trials = {m: trial.variant for m, trial in plan.staged.items() if host in trial.hosts}
        variants = {**plan.variants, **trials}
        return Assignment(
            plan.generation,
            variants,
            plan.modes,
            serving=plan.serving,
            unloaded=self.unloaded,
            orders=self.orders,
        )


#: Called once on the event loop, with an answer or what went wrong. Must not raise.
Deliver = Callable[[Answer | None, Exception | None], None]


class Submitted(Protocol):
    """A request on its way."""

    def cancel(self) -> None:
        """The caller went away: nothing is delivered any more, and what has not begun is not computed."""
        ...


class Host(Protocol):
    """A running model host. All methods belong to the host's event loop; `apply` and `status` never block."""

    @property
    def catalog(self) -> Catalog: ...

    async def infer(
        self,
        model: str,
        inputs: Tensors,
        *,
        timeout_seconds: float | None = None,
        protocol: str = "direct",
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Answer:
        """Answer one request. `inputs` hold every declared input, validated against the model's specs, axis 0 = batch.
        `timeout_seconds` None: the model's configured default. `protocol` (http, grpc) is only counted. `priority`: 1 is
        the highest, 0 the model's default. `variants`: those that may compute the answer, None: all.

        Raises UnknownModel, InvalidInput (batch above the maximum), QueueFull (no room, or no answer in time behind what
        waits), Unavailable, DeadlineExceeded, WishUnmet (a variant not in `variants` is in force, or comes into force
        before the request's turn), EngineFailed.
        """
        ...

    def submit(
        self,
        model: str,
        inputs: Tensors,
        deliver: Deliver,
        *,
        timeout_seconds: float | None = None,
        protocol: str = "direct",
        priority: int = 0,
        variants: frozenset[str] | None = None,
    ) -> Submitted:
        """As `infer`, for a caller that is called back: cheaper than a task that waits. What `infer` raises is raised
        here where it is known at once, else delivered."""
        ...

    def pressed(self, model: str) -> bool:
        """So much waits that it is worth asking `turn_away` before a request is read. False for an unknown model."""
        ...

    def turn_away(self, model: str, protocol: str, timeout_seconds: float | None) -> None:
        """Raises QueueFull where a request of the default priority need not be read: it would find no room, or its answer would
        come too late for `timeout_seconds` (None: the model's own; infinite: it is not known). It is counted. Raises
        UnknownModel."""
        ...

    def candidate(self, model: str, rows: int = 1, priority: int = 0) -> Candidate:
        """How the model could answer a request of that many rows now. Raises UnknownModel."""
        ...

    def stream(
        self, model: str, inputs: Tensors, *, timeout_seconds: float | None = None, protocol: str = "direct"
    ) -> AsyncGenerator[Answer, None]:
        """Answer one request of a model that streams (`Model.streams`), one answer after the other; `timeout_seconds`
        is for each of them. Closing the iterator ends the computation after the step under way.

        Raises UnknownModel, QueueFull, Unavailable, DeadlineExceeded, EngineFailed.
        """
        ...

    def watch(self, model: str, changed: Callable[[], None]) -> None:
        """Have `changed` called on the event loop whenever another engine, or none, comes into force. Raises
        UnknownModel."""
        ...

    def status(self, model: str) -> ModelStatus:
        """Raises UnknownModel."""
        ...

    def statistics(self, model: str) -> Statistics:
        """Raises UnknownModel."""
        ...

    async def load(self, model: str) -> None:
        """V2 repository extension: make the model ready (its best rung, or the one the plan names) and return when it
        is. Raises UnknownModel, Unavailable with the reason."""
        ...

    async def unload(self, model: str) -> None:
        """V2 repository extension: drain, free, and answer Unavailable until `load`. Raises UnknownModel."""
        ...

    def apply(self, assignment: Assignment) -> None:
        """Start moving to the assignment in the background; older generations are ignored. Never raises for a variant
        that does not load: the model keeps what it runs and `observe().failed` says why."""
        ...

    def observe(self) -> HostState:
        """What this host runs, and the last swaps."""
        ...
