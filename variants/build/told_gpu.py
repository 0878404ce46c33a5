"""What TensorRT can do for a model on the GPU of a machine: which flavour of the library, for which typed variants."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from variants.engines.tensorrt_ import INSTALL, import_flavour
from variants.errors import EngineUnavailable

#: Compute capabilities that TensorRT for RTX builds for. Source: its 1.7 support matrix.
RTX = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
#: The first capability that TensorRT builds for, the first with bf16, and the first that skips the zeros of 2:4 sparse weights.
OLDEST, BF16, SPARSE = 7.5, 8.0, 8.0


@dataclass(frozen=True)
class Library:
    """The flavour of TensorRT for a machine's first GPU (engines run on that one): the GPU's compute capability such as `8.9`,
    the technique that compiles for it (both empty where none does), whether the flavour can be imported here, and what there is
    to say of it."""

    capability: str = ""
    technique: str = ""
    installed: bool = False
    lines: tuple[str, ...] = ()

    def gains(self, weights: int, *, sparse: bool) -> dict[str, str]:
        """What a plan of each typed variant buys, in words, by the variant's name.

        `weights` is their number in the model; `sparse` says whether a variant with 2:4 sparse weights is built.
        """
        if not self.technique:
            return {}
        capability, mib = float(self.capability), weights / 2**20
        found = {"fp16": f"weights down to {mib * 2:.2f} MiB of GPU memory, matrix units in fp16"}
        if capability >= BF16:
            found["bf16"] = f"fp16's {mib * 2:.2f} MiB with fp32's range, for what overflows in fp16"
        found["int8"] = f"weights down to {mib:.2f} MiB of GPU memory, matrix units in int8"
        if sparse and capability >= SPARSE:
            found["sparse24+fp16"] = "as fp16, and two of four weights are skipped"
        return found


def library(gpus: Sequence[str]) -> Library:
    """Which flavour of TensorRT is for these GPUs, as `variants.device.gpu_names` describes them: one that is installed
    before one that is not, the one from PyPI before the vendor's."""
    found = next((m for m in (re.search(r"\bsm_(\d+)(\d)\b", name) for name in gpus) if m), None)
    if found is None:
        return Library()
    capability = f"{found[1]}.{found[2]}"
    where = f"compute capability {capability}"
    if float(capability) < OLDEST:
        return Library(lines=(f"{where}: TensorRT builds for {OLDEST} and newer",))
    able = ("tensorrt-rtx", "tensorrt") if capability in RTX else ("tensorrt",)
    here = [technique for technique in able if _installed(technique)]
    lines = [f"{where}: {' or '.join(able)} makes plans, for this GPU only"]
    if not here:
        lines.append(f"not now: {able[0]} is not installed: {INSTALL[able[0].replace('-', '_')]}")
    return Library(capability, (here or able)[0], bool(here), tuple(lines))


def _installed(technique: str) -> bool:
    try:
        import_flavour(technique.replace("-", "_"))
    except EngineUnavailable:
        return False
    return True
