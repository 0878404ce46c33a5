"""Plan -> the host deployment's `user_config`, and the hosts' observed generation back.

The plan is state that Ray Serve keeps: applied to new and restarted replicas before they are healthy, checkpointed by
Serve's controller. Only a declarative deploy changes a `user_config` without restarting replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from budgets.plan import Plan
from budgets.snapshot import HostState, Staged
from deployments.api import Assignment

OBSERVE_SECONDS = 5.0


def to_user_config(assignment: Assignment) -> dict[str, Any]:
    """An assignment as the JSON-able `user_config` of the host deployment."""
    return {
        "generation": assignment.generation,
        "variants": dict(assignment.variants),
        "modes": dict(assignment.modes),
        "staged": {model: trial.model_dump(mode="json") for model, trial in assignment.staged.items()},
    }


def from_user_config(config: Mapping[str, Any]) -> Assignment:
    """The inverse of `to_user_config`. Raises KeyError when the generation or the variants are absent, ValueError when what
    is on trial is not said as it should be."""
    staged = {model: Staged.model_validate(trial) for model, trial in config.get("staged", {}).items()}
    return Assignment(int(config["generation"]), dict(config["variants"]), dict(config.get("modes", {})), staged)


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
    """The controller's arm into Ray Serve. Runs inside a Serve replica's event loop."""

    def __init__(self, application: str, deployment: str) -> None:
        self._application = application
        self._deployment = deployment
        self._handle: Any = None

    async def observe(self) -> tuple[HostState, ...]:
        """What every running host says of itself; nothing while none is up. Raises TimeoutError when one does not answer in
        5 s."""
        if self._handle is None:
            self._handle = serve.get_deployment_handle(self._deployment, self._application)
        try:
            answers = await asyncio.wait_for(self._handle.broadcast("observe").results_async(), OBSERVE_SECONDS)
        except DeploymentUnavailableError:  # none is up yet
            return ()
        return tuple(HostState.model_validate(answer) for answer in answers)

    async def apply(self, plan: Plan) -> None:
        """Hand the plan to Ray Serve, which reconfigures all replicas. Returns once Serve has stored it."""
        assignment = Assignment(plan.generation, plan.assignment, plan.modes, plan.staged)
        await asyncio.to_thread(self._deploy, to_user_config(assignment))

    def _deploy(self, user_config: dict[str, Any]) -> None:
        client = _get_global_client()
        details = client.get_serve_details()
        deployed = [app["deployed_app_config"] for app in details["applications"].values()]
        changed = replace_user_config(
            [app for app in deployed if app is not None], self._application, self._deployment, user_config
        )
        schemas = [ServeApplicationSchema.model_validate(app) for app in changed]
        client.deploy_apps(ServeDeploySchema(applications=schemas))
