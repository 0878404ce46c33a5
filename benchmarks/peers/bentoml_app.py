"""BentoML: one service with an API per model. `bentoml serve benchmarks.peers.bentoml_app:Peer`."""

from __future__ import annotations

from typing import Any

import bentoml

from benchmarks.peers.engine import Engine, decode, encode, models


def _api(name: str) -> Any:
    def infer(self: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        return encode(self.engines[name](decode({"inputs": inputs})))

    infer.__name__ = infer.__qualname__ = "infer_" + name.replace("-", "_")
    return bentoml.api(infer, route=f"/v2/models/{name}/infer")


def _load(self: Any) -> None:
    self.engines = {model["name"]: Engine(model) for model in models()}


_members = {"infer_" + model["name"].replace("-", "_"): _api(model["name"]) for model in models()}
Peer = bentoml.service(type("Peer", (), {"__init__": _load, "__module__": __name__, **_members}), workers=1)
