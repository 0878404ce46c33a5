"""How a variant gets from its folder into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from deployments import canary
from variants.catalog import Profile, Variant
from variants.engines.base import Engine, LoadRequest
from variants.errors import EngineFailed

log = logging.getLogger("trimtab.swap")


@dataclass(frozen=True)
class Artefacts:
    """How a variant gets from its folder into memory and is checked there. Each blocks and is called in a thread.

    check(folder, variant): raises ArtefactRefused when a file is not what the catalog says.
    compiled(folder, profile): the file that may be loaded instead of the artefact, checked; or None.
    read_canary(model folder): stored inputs and reference outputs, or None.
    """

    load: Callable[[LoadRequest], Engine]
    check: Callable[[Path, Variant], None]
    compiled: Callable[[Path, Profile | None], Path | None]
    read_canary: Callable[[Path], canary.Canary | None]
    distance: canary.Distance

    def engine(self, request: LoadRequest, fingerprint: str) -> Engine:
        """An engine of what it had made of the artefact when it was profiled, where that can be had, else of the artefact.
        `fingerprint`: whose profile counts. Raises what `check` and `load` do."""
        compiled = self.compiled(request.folder, request.variant.profile(fingerprint))
        if compiled is not None:
            try:
                return self.load(replace(request, compiled=compiled))
            except EngineFailed as error:
                log.warning("%s is not loaded, the artefact is: %s", compiled, error)
        self.check(request.folder, request.variant)
        return self.load(request)
