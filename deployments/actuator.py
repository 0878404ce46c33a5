"""Plan -> the host deployment's `user_config`, and the hosts' observed generation back.

The plan is state that Ray Serve keeps: applied to new and restarted replicas before they are healthy, checkpointed by
Serve's controller. Only a declarative deploy changes a `user_config` without restarting replicas.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from budgets.config import DEFAULT_GROUP
from budgets.plan import Plan
from budgets.snapshot import HostState, Serving, Staged
from deployments.api import Assignment
from variants.errors import Unavailable

log = logging.getLogger("trimtab.control")
#: A host that takes longer counts as absent, and its group is left as it is.
OBSERVE_SECONDS = 2.0
#: As long as a host may take to load a model, or to unload it.
LOAD_SECONDS = 600.0


def to_user_config(assignment: Assignment) -> dict[str, Any]:
    """An assignment as the JSON-able `user_config` of the host deployment."""
    groups = {group: to_user_config(plan) for group, plan in assignment.groups.items()}
    serving = {model: told.model_dump(mode="json") for model, told in assignment.serving.items()}
    return {
        "generation": assignment.generation,
        "variants": dict(assignment.variants),
        "modes": dict(assignment.modes),
        "staged": {model: trial.model_dump(mode="json") for model, trial in assignment.staged.items()},
        **({"groups": groups} if groups else {}),
        **({"serving": serving} if serving else {}),
        **({"unloaded": sorted(assignment.unloaded), "orders": assignment.orders} if assignment.orders else {}),
    }


def from_user_config(config: Mapping[str, Any]) -> Assignment:
    """The inverse of `to_user_config`. Raises KeyError when the generation or the variants are absent, ValueError when what
    is on trial, or how models are served, is not said as it should be."""
    staged = {model: Staged.model_validate(trial) for model, trial in config.get("staged", {}).items()}
    serving = {model: Serving.model_validate(told) for model, told in config.get("serving", {}).items()}
    groups = {group: from_user_config(plan) for group, plan in config.get("groups", {}).items()}
    return Assignment(
        int(config["generation"]),
        dict(config["variants"]),
        dict(config.get("modes", {})),
        staged,
        groups,
        serving,
        frozenset(config.get("unloaded", ())),
        int(config.get("orders", 0)),
    )


def with_plan(
    assignment: Assignment | None, group: str, plan: Assignment, others: Mapping[str, Assignment]
) -> Assignment:
    """What all hosts are told, with one group's plan replaced. The other groups keep theirs; those that have none yet are
    given what they run (`others`), since they would follow the default group's next plan otherwise. What was unloaded on
    request stays so."""
    assignment = assignment or others.get(DEFAULT_GROUP, plan)
    groups = {g: other for g, other in others.items() if g != DEFAULT_GROUP} | dict(assignment.groups)
    if group == DEFAULT_GROUP:
        return replace(plan, groups=groups, unloaded=assignment.unloaded, orders=assignment.orders)
    return replace(assignment, groups={**groups, group: plan})


def reasserted(now: Assignment, plans: Mapping[str, Assignment], unloaded: Collection[str], orders: int) -> Assignment:
    """What all hosts are told, with newer plans of groups, and what is `unloaded` after more `orders`, in place of its own."""
    for group, plan in plans.items():
        told = now if group == DEFAULT_GROUP else now.groups.get(group)
        if told is None or told.generation < plan.generation:
            now = with_plan(now, group, plan, {})
    return now if orders <= now.orders else replace(now, unloaded=frozenset(unloaded), orders=orders)


def followed(hosts: Sequence[HostState]) -> tuple[frozenset[str], int]:
    """What is unloaded on all hosts that have carried out the last order, and that order's number."""
    latest = max((host.orders for host in hosts), default=0)
    sets = [frozenset(host.unloaded) for host in hosts if host.orders == latest]
    return (frozenset.intersection(*sets) if sets else frozenset()), latest


def user_config_of(applications: list[dict[str, Any]], application: str, deployment: str) -> dict[str, Any]:
    """A deployment's `user_config`; empty where it has none."""
    deployments: list[dict[str, Any]] = next(
        (app.get("deployments", []) for app in applications if app.get("name") == application), []
    )
    found = next((d.get("user_config") for d in deployments if d.get("name") == deployment), None)
    return dict(found or {})


def replace_user_config(
    applications: list[dict[str, Any]], application: str, deployment: str, user_config: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The same applications with one deployment's `user_config` replaced; everything else is left as it was deployed.

    Raises LookupError when the application is not among them.
    """
    changed = []
    found = False
    for app in applications:
        if app.get("name") == application:
            found = True
            others = [d for d in app.get("deployments", []) if d.get("name") != deployment]
            mine = next((d for d in app.get("deployments", []) if d.get("name") == deployment), {"name": deployment})
            app = {**app, "deployments": [*others, {**mine, "user_config": dict(user_config)}]}
        changed.append(app)
    if not found:
        raise LookupError(f"no application {application!r} is deployed")
    return changed


class ServeActuator:
    """The controller's arm into Ray Serve (see `budgets.ports.Fleet`). Runs inside a Serve replica's event loop."""

    def __init__(self, application: str, deployment: str) -> None:
        self._application = application
        self._deployment = deployment
        self._handle: Any = None
        self._handing_over = asyncio.Lock()
        self._ordering = asyncio.Lock()
        self._followed: tuple[frozenset[str], int] = (frozenset(), 0)

    async def observe(self) -> tuple[HostState, ...]:
        """What every running host says of itself, but for those that do not answer in 2 s or are just going; nothing while
        none is up. Raises TimeoutError when Serve does not say which there are."""
        answers = await self._ask(OBSERVE_SECONDS, "observe")
        hosts = tuple(HostState.model_validate(answer) for answer in answers if answer is not None)
        found = followed(hosts)
        if found[1] >= self._followed[1]:  # else all have started since
            self._followed = found
        return hosts

    async def _ask(self, seconds: float, method: str, *arguments: Any) -> list[Any]:
        """What every running host answers, None for each that does not in time."""
        if self._handle is None:
            self._handle = serve.get_deployment_handle(self._deployment, self._application)
        asked = self._handle.broadcast(method, *arguments)
        try:
            # Not `results_async`: it has one answer for all, and one host that is lost must not hide the others.
            replicas = await asyncio.wait_for(asked._fetch_replica_results_async(), OBSERVE_SECONDS)
        except DeploymentUnavailableError:  # none is up yet
            return []
        return await asyncio.gather(*(self._answer(replica, seconds) for replica in replicas))

    async def _answer(self, replica: Any, seconds: float) -> Any:
        try:
            return await asyncio.wait_for(replica.get_async(), seconds)
        except (TimeoutError, RayError, DeploymentUnavailableError) as error:
            log.info("a host does not answer: %s: %s", type(error).__name__, str(error).partition("\n")[0])
            return None

    async def order(self, action: Literal["load", "unload"], model: str) -> None:
        """Load or unload a model on every host, and return when all have; hosts that start later follow. The order stands in
        the `user_config`: a model that could not be unloaded everywhere is not in it, one that could not be loaded is
        tried again by hosts that start. Orders have numbers, since what a host is told directly overtakes what Serve has
        yet to tell it. Raises Unavailable with what the hosts say."""
        async with self._ordering:
            number = await asyncio.to_thread(self._orders) + 1
            answers = await self._ask(LOAD_SECONDS, action, model, number)
            problems = sorted({answer for answer in answers if answer})
            if action == "load" or not problems:
                async with self._handing_over:
                    await asyncio.to_thread(self._mark, action, model, number)
        if problems or not answers:
            raise Unavailable("; ".join(problems) or "no host is running")

    def _orders(self) -> int:
        now = self._told(self._applications())
        return max(0 if now is None else now.orders, self._followed[1])

    def _mark(self, action: Literal["load", "unload"], model: str, number: int) -> None:
        def changed(now: Assignment | None) -> Assignment | None:
            if now is None:
                return None
            unloaded = now.unloaded - {model} if action == "load" else now.unloaded | {model}
            return replace(now, unloaded=unloaded, orders=number)

        self._replace(changed)

    async def apply(self, plan: Plan, group: str, others: Mapping[str, Plan]) -> None:
        """Hand the plan to Ray Serve, which reconfigures all replicas. Returns once Serve has stored it."""
        async with self._handing_over:  # what is there is read, changed and written back
            await asyncio.to_thread(self._deploy, plan, group, others)

    def _deploy(self, plan: Plan, group: str, others: Mapping[str, Plan]) -> None:
        runs = {name: _assignment(other) for name, other in others.items()}
        self._replace(lambda now: with_plan(now, group, _assignment(plan), runs))

    async def reassert(self, plans: Mapping[str, Plan]) -> None:
        """See `budgets.ports.Fleet.reassert`. An order that is being carried out is written down when it has been."""
        assignments = {group: _assignment(plan) for group, plan in plans.items()}
        unloaded, orders = (frozenset[str](), 0) if self._ordering.locked() else self._followed

        def changed(now: Assignment | None) -> Assignment | None:
            return None if now is None else reasserted(now, assignments, unloaded, orders)

        async with self._handing_over:
            if await asyncio.to_thread(self._replace, changed):
                log.info("what the hosts are told was older than what they follow: they are told the latter again")

    def _replace(self, change: Callable[[Assignment | None], Assignment | None]) -> bool:
        """Deploy what `change` makes of what all hosts are told now; nothing, and False, where that is the same."""
        apps = self._applications()
        now = self._told(apps)
        made = change(now)
        if made is None or made == now:
            return False
        changed = replace_user_config(apps, self._application, self._deployment, to_user_config(made))
        schemas = [ServeApplicationSchema.model_validate(app) for app in changed]
        _get_global_client().deploy_apps(ServeDeploySchema(applications=schemas))
        return True

    def _applications(self) -> list[dict[str, Any]]:
        details = _get_global_client().get_serve_details()
        deployed = [app["deployed_app_config"] for app in details["applications"].values()]
        return [app for app in deployed if app is not None]

    def _told(self, applications: list[dict[str, Any]]) -> Assignment | None:
        config = user_config_of(applications, self._application, self._deployment)
        return from_user_config(config) if config else None


def _assignment(plan: Plan) -> Assignment:
    return Assignment(plan.generation, plan.assignment, plan.modes, plan.staged, serving=plan.serving)
