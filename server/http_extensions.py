"""The protocol's extensions that describe and steer rather than infer: shared memory, trace and logging settings.

Settings that one model host cannot change for all of them are refused, never accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from server.dataplane import DataPlane
from variants.errors import InvalidInput, UnknownRegion, Unsupported

Body = Mapping[str, Any]
Answer = Callable[[DataPlane, Body], Any]
TRACING = "trace settings are not changed through the protocol; tracing is part of the server's configuration file"
LOGGING = "log settings are not changed through the protocol; logging is part of the server's configuration file"
CUDA = "CUDA shared memory is not supported; system shared memory is"


def find(parts: list[str]) -> Mapping[str, Answer] | None:
    """What answers at a path, by method; None for a path that is none of these. `parts`: the path's, unquoted."""
    match parts:
        case ["v2", "systemsharedmemory", "status"]:
            return {"GET": lambda plane, _: _status(plane, "")}
        case ["v2", "systemsharedmemory", "region", name, "status"]:
            return {"GET": lambda plane, _: _status(plane, name)}
        case ["v2", "systemsharedmemory", "region", name, "register"]:
            return {"POST": lambda plane, body: _register(plane, name, body)}
        case ["v2", "systemsharedmemory", "unregister"]:
            return {"POST": lambda plane, _: plane.regions.unregister()}
        case ["v2", "systemsharedmemory", "region", name, "unregister"]:
            return {"POST": lambda plane, _: plane.regions.unregister(name)}
        # No region is ever registered: that much can be answered.
        case ["v2", "cudasharedmemory", "status"]:
            return {"GET": lambda _, __: []}
        case ["v2", "cudasharedmemory", "unregister"] | ["v2", "cudasharedmemory", "region", _, "unregister"]:
            return {"POST": lambda _, __: None}
        case ["v2", "cudasharedmemory", "region", name, "status"]:
            return {"GET": lambda _, __: _no_cuda_region(name)}
        case ["v2", "cudasharedmemory", "region", _, "register"]:
            return {"POST": lambda _, __: _refuse(CUDA)}
        case ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"]:
            return {method: lambda _, __: _refuse(TRACING) for method in ("GET", "POST")}
        case ["v2", "models", _, "versions", _, "trace", "setting"]:
            return {method: lambda _, __: _refuse(TRACING) for method in ("GET", "POST")}
        case ["v2", "logging"]:
            return {method: lambda _, __: _refuse(LOGGING) for method in ("GET", "POST")}
    return None


def _refuse(why: str) -> None:
    raise Unsupported(why)


def _no_cuda_region(name: str) -> None:
    raise UnknownRegion(f"no CUDA shared memory region {name!r}: {CUDA}")


def _status(plane: DataPlane, name: str) -> list[dict[str, Any]]:
    return [asdict(region) for region in plane.regions.status(name)]


def _register(plane: DataPlane, name: str, body: Body) -> None:
    key = body.get("key")
    if not isinstance(key, str):
        raise InvalidInput(f"key must be a string, not {type(key).__name__}")
    numbers = {"offset": body.get("offset", 0), "byte_size": body.get("byte_size")}
    for field, value in numbers.items():
        if type(value) is not int:
            raise InvalidInput(f"{field} must be an integer, not {type(value).__name__}")
    plane.regions.register(name, key, numbers["offset"], numbers["byte_size"])
