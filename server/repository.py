"""Models are loaded and unloaded on every host, whichever of them was asked: by an order to the controller."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from variants.errors import Unavailable

#: How long the controller may take to say that it is there.
REACH_SECONDS = 5.0
#: How long an order may take: that of a host that loads a large model.
ORDER_SECONDS = 660.0


class EveryHost:
    """The models of all hosts, by the deployment handle of the controller (`server.ingress.Control`)."""

    def __init__(self, control: Any) -> None:
        self._control = control

    async def load(self, model: str) -> None:
        """Returns when the model is ready on every host. Raises Unavailable."""
        await self._order("load", model)

    async def unload(self, model: str) -> None:
        """Returns when no host has the model in memory; none answers it until `load`. Raises Unavailable."""
        await self._order("unload", model)

    async def _order(self, action: Literal["load", "unload"], model: str) -> None:
        what = f"{action} of model {model!r}"
        try:
            await asyncio.wait_for(self._control.reach.remote(), REACH_SECONDS)
        except (TimeoutError, RayError, RayServeException) as error:
            raise Unavailable(
                f"{what}: nothing was done, since the controller cannot be reached ({type(error).__name__})",
                retry_after_seconds=REACH_SECONDS,
            ) from error
        try:
            problem = await asyncio.wait_for(self._control.repository.remote(action, model), ORDER_SECONDS)
        except (TimeoutError, RayError, RayServeException) as error:
            raise Unavailable(
                f"{what}: the controller did not say how it ended ({type(error).__name__}); the repository index does"
            ) from error
        if problem:
            raise Unavailable(f"{what}: {problem}")
