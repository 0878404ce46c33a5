"""What every technique is given, and what they share."""

from __future__ import annotations

import importlib.metadata
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from variants import engines
from variants.catalog import Lineage, Model, Variant
from variants.data import check_data, load_data
from variants.device import default_threads
from variants.engines.base import Array, LoadRequest
from variants.errors import BuildError, TrimtabError
from variants.quality import concatenate, distance
from variants.repository import VARIANT, variant_folder

Progress = Callable[[str, float], None]
#: Calibration works from this many samples up.
MIN_CALIBRATION = 64
CANARIES = 8


@dataclass(frozen=True)
class Draft:
    """What a technique hands back: the variant's record, and `fill(folder)`, which writes its files and returns options
    to add to the record (what is known only once they are written)."""

    variant: Variant
    fill: Callable[[Path], Mapping[str, str] | None]


@dataclass(frozen=True)
class Context:
    """One model's folder, its `model.yaml`, the parameters of the technique at hand, and a progress report."""

    folder: Path
    model: Model
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress = lambda step, fraction: None

    @cached_property
    def calibration(self) -> dict[str, Array]:
        """Calibration samples by input name. Raises BuildError when there are none, too few, or of the wrong form."""
        if not self.model.data.calibration:
            raise BuildError(
                f"{self.model.name}: {self.name}: needs data.calibration in model.yaml (64 samples or more)"
            )
        data = load_data(self.folder, self.model.data.calibration)
        count = check_data(self.model, data, what="data.calibration")
        if count < MIN_CALIBRATION:
            raise BuildError(
                f"{self.model.name}: {self.name}: {count} calibration samples; {MIN_CALIBRATION} are needed"
            )
        return data

    @cached_property
    def usable(self) -> dict[str, Array] | None:
        """The calibration samples, for what can do without: None when there are none, or they will not do."""
        try:
            return self.calibration
        except TrimtabError:
            return None

    def graph_file(self, parent: Variant | None) -> Path:
        """The parent's artefact, ONNX or OpenVINO IR. Raises BuildError as `parent_file` does."""
        if parent is not None and parent.artefact.endswith(".xml"):
            return variant_folder(self.folder, parent.name) / parent.artefact
        return self.parent_file(parent)

    def ancestry(self, parent: Variant | None) -> tuple[str, ...]:
        """The techniques that made a variant, the last one first."""
        found = []
        while parent is not None:
            found.append(parent.lineage.technique)
            above = variant_folder(self.folder, parent.lineage.parent or "") / VARIANT
            parent = Variant.model_validate_json(above.read_text()) if parent.lineage.parent else None
        return tuple(found)

    def parent_file(self, parent: Variant | None) -> Path:
        """The parent's ONNX artefact. Raises BuildError when there is no parent or it is not ONNX."""
        if parent is None or not parent.artefact.endswith(".onnx"):
            has = "no parent" if parent is None else f"parent {parent.name} ({parent.artefact})"
            raise BuildError(f"{self.model.name}: {self.name}: needs an ONNX parent, has {has}; start from fp32")
        return variant_folder(self.folder, parent.name) / parent.artefact

    def parameter(self, name: str, default: Any) -> Any:
        """A technique's parameter of `model.yaml: techniques`, checked to be of the default's kind. Raises BuildError."""
        value = self.parameters.get(name, default)
        number = isinstance(default, float) and isinstance(value, int)
        if default is not None and not number and not isinstance(value, type(default)):
            kind = type(default).__name__
            raise BuildError(f"{self.model.name}: techniques.{self.name}.{name}: {value!r} is not a {kind}")
        return value

    def lineage(
        self, parent: Variant | None, technique: str, samples: int, packages: tuple[str, ...], **used: Any
    ) -> Lineage:
        """A lineage with the versions of the packages that did the work."""
        return Lineage(
            parent=None if parent is None else parent.name,
            technique=technique,
            parameters=used,
            samples=samples,
            libraries={name: importlib.metadata.version(name) for name in packages},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )


@contextmanager
def silent() -> Iterator[None]:
    """Warnings and log lines of libraries go nowhere while the context lasts: what matters ends in an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def run(model: Model, variant: Variant, folder: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a variant on samples, one at a time (axis 0 = sample), through its own engine."""
    engine = engines.load(LoadRequest(model, variant, folder, threads=default_threads()))
    try:
        count = len(next(iter(inputs.values())))
        names = [spec.name for spec in model.inputs]
        return concatenate([engine.infer({n: inputs[n][i : i + 1] for n in names}) for i in range(count)])
    finally:
        engine.close()


def measured_tolerance(
    model: Model, outputs: Mapping[str, Array], reference: Mapping[str, Array], floor: float = 0.02
) -> float:
    """The canary tolerance of a variant: twice its own distance on the canaries, at least `floor`, below 1."""
    return min(0.95, max(floor, 2.0 * distance(model.metric, outputs, reference)))
