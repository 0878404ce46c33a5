"""The configuration file, read again: what can be applied at run time is applied, the rest is named.

Budgets, models' policies and the controller's settings apply at once; everything else needs a restart. A file that is wrong
changes nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

from server.admin.control import Control
from server.settings import Settings, load_settings
from server.watched import Watched
from variants.errors import Conflict, InvalidInput, TrimtabError

log = logging.getLogger("trimtab.reload")
POLL_SECONDS = 3.0
#: Of the controller's section: what is set up once.
FIXED = ("source", "prometheus", "journal")


class Reloader:
    """Watches one configuration file on behalf of one controller. Belongs to one event loop."""

    def __init__(self, settings: Settings, control: Control) -> None:
        self._settings = settings
        self._control = control
        self._path = None if settings.config_path is None else Path(settings.config_path)
        self._digest = self._read_digest()
        self._watched = Watched([] if self._path is None else [str(self._path)])
        self._task: asyncio.Task[None] | None = None

    def _read_digest(self) -> bytes | None:
        try:
            return None if self._path is None else hashlib.sha256(self._path.read_bytes()).digest()
        except OSError:
            return None

    def reload(self) -> dict[str, Any]:
        """Read and apply the file. Answers `{"applied": [fields], "restart": [fields that need one]}`.

        Raises Conflict when the server was not started from a file, InvalidInput naming what is wrong with it.
        """
        if self._path is None:
            raise Conflict("the server was not started from a configuration file, so there is none to read again")
        self._digest = self._read_digest()
        try:
            wanted = load_settings(self._path)
            wanted.check(self._control.catalog)
        except TrimtabError as error:
            raise InvalidInput(f"nothing was changed: {error}") from error
        before, after = self._settings, merged(self._settings, wanted)
        applied, waiting = differences(before, after), differences(after, wanted)
        if applied:
            try:
                self._control.reconfigure(after.budgets_config())
            except TrimtabError as error:
                raise InvalidInput(f"nothing was changed: {error}") from error
            self._settings = after
        log.info("%s: applied %s; needs a restart: %s", self._path, applied or "nothing", waiting or "nothing")
        return {"applied": applied, "restart": waiting}

    def start(self) -> None:
        """Read the file whenever its content changes, until `close`."""
        if self._path is not None and self._task is None:
            self._task = asyncio.create_task(self._watch(), name="trimtab-reload")

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                self.look()
            except Exception:
                log.exception("the configuration file could not be looked at")

    def look(self) -> None:
        """Reload if the content has changed since it was last read; an error is logged."""
        if not self._watched.changed() or self._read_digest() == self._digest:
            return
        try:
            self.reload()
        except TrimtabError as error:
            log.error("the changed configuration was not taken: %s", error)

    async def close(self) -> None:
        """Watch no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def at_start(settings: Settings) -> Settings:
    """The settings that a controller or a host starts with: those it was deployed with, and of what may change at run time
    what the file says now. So one that starts again does not fall back to an older file. One that cannot be read is logged
    and left out."""
    if settings.config_path is None:
        return settings
    try:
        return merged(settings, load_settings(Path(settings.config_path)))
    except TrimtabError as error:
        log.error("starting with the configuration as deployed: %s", error)
        return settings


def merged(before: Settings, wanted: Settings) -> Settings:
    """`before`, with what may change at run time as in `wanted`."""
    fixed = {field: getattr(before.controller, field) for field in FIXED}
    controller = wanted.controller.model_copy(update=fixed)
    models = {
        name: model.model_copy(update={"batching": before.models[name].batching if name in before.models else None})
        for name, model in wanted.models.items()
    }
    update = {"budgets": wanted.budgets, "controller": controller, "models": models}
    return before.model_copy(update=update)


def differences(one: Settings, other: Settings) -> list[str]:
    """The fields in which two settings differ, by their path: `budgets.ram`, `models.minilm.floor`, `server.http_port`."""
    found = _differ("", _named(one), _named(other))
    return sorted(found)


def _named(settings: Settings) -> dict[str, Any]:
    dump = settings.model_dump(mode="json", exclude={"config_path"})
    dump["budgets"] = {b["name"]: b for b in dump["budgets"]}
    return dump


def _differ(path: str, one: Any, other: Any) -> list[str]:
    if one == other:
        return []
    if not (isinstance(one, dict) and isinstance(other, dict)) or path.startswith("budgets."):
        return [path]
    found = []
    for key in {*one, *other}:
        below = f"{path}.{key}" if path else key
        found += _differ(below, one.get(key), other.get(key))
    return found
