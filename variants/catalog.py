"""The nouns of what can run: Model, Variant, Profile, Ladder, Catalog. All frozen.

Reading them from disk is `variants.repository`'s work; nothing here touches a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from variants.datatypes import Datatype

EngineName = Literal["openvino", "onnx", "torch", "tensorrt", "tensorrt_rtx", "litert"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
#: Names become folders and metric labels: letters, digits, `.`, `_`, `-`, not starting with a dot.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}$")]
#: What follows a model's name in a path of the protocol, so that no task can be called so.
RESERVED_TASKS = ("config", "generate", "generate_stream", "infer", "ready", "stats", "trace", "versions")
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class Frozen(BaseModel):
    """Immutable value; unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorSpec(Frozen):
    """One input or output. `shape` has every axis, -1 where it varies; axis 0 of -1 is the batch axis. `labels`: of an
    output's classes, in their order (V2 classification extension)."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


class Source(Frozen):
    """Where a model's reference comes from: exactly one of these; files and folders are in the model's folder.

    `factory` is `package.module:function` or `file.py:function`; it returns an `nn.Module` whose forward takes the
    inputs in the order of `model.yaml` and returns the outputs in theirs. `onnx` is a file. `program` is a
    `torch.export` program (`.pt2`). `huggingface` is a folder with `config.json` and safetensors; the inputs are passed
    by name, the outputs are the attributes of those names of what the model returns. `tflite` (LiteRT) and `plan`
    (TensorRT, of `flavour`) are served as they are.
    """

    factory: str | None = None
    onnx: str | None = None
    program: str | None = None
    huggingface: str | None = None
    tflite: str | None = None
    plan: str | None = None
    flavour: Literal["tensorrt", "tensorrt_rtx"] = "tensorrt_rtx"

    @property
    def given(self) -> tuple[str, ...]:
        """The kinds of source that are set."""
        return tuple(kind for kind in SOURCES if getattr(self, kind) is not None)

    @property
    def fixed(self) -> bool:
        """True for a source that is served as it is: no technique can transform it."""
        return self.tflite is not None or self.plan is not None


SOURCES = ("factory", "onnx", "program", "huggingface", "tflite", "plan")


class Data(Frozen):
    """Files of samples in the model's folder: `.npz` (an array for each input name, axis 0 = sample; labels under `label`),
    `.parquet` (a column for each input name), or `file.py:function` / `package.module:function` that returns such a
    mapping of arrays or an iterator over mappings of one sample each."""

    calibration: str | None = None
    evaluation: str | None = None


class Model(Frozen):
    """What clients call by name. `max_batch` is the largest first axis one engine call may have (1: not batchable).

    `serves`: tasks that the model answers as well (`tasks/<name>`), with others that take and give the same. `pad`: lets
    requests of unequal length share a call; the value that fills up each input with a second varying axis, such that
    the answers stay the same (a mask's 0). `streams`: one request gets any number of answers, over the streaming calls
    only. `floor`: the least quality that a rung of the ladder may have.
    """

    name: Name
    version: str = "1"
    task: str
    metric: Literal["top1", "cosine", "relative_error"] = "cosine"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int = Field(default=8, ge=1)
    floor: Unit = 0.0
    source: Source
    data: Data = Data()
    build: tuple[str, ...] = ("fp32", "int8")
    techniques: Mapping[str, Mapping[str, Any]] = {}
    trust: bool = False
    streams: bool = False
    serves: tuple[Name, ...] = ()
    pad: Mapping[str, float] = {}

    @field_validator("serves")
    @classmethod
    def _free(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        wrong = sorted(set(names) & set(RESERVED_TASKS))
        if wrong or len(set(names)) != len(names):
            raise ValueError(f"no task twice, and none called {', '.join(RESERVED_TASKS)}")
        return names

    @model_validator(mode="after")
    def _paddable(self) -> Model:
        if not self.pad:
            return self
        if not self.batchable:
            raise ValueError("pad: only a model that is batchable can be padded")
        varying = {spec.name: spec for spec in self.inputs if -1 in spec.shape[1:]}
        if set(self.pad) != set(varying):
            names = ", ".join(varying) or "none"
            raise ValueError(f"pad: name every input with a varying axis besides the batch, and no other: {names}")
        for name, spec in varying.items():
            if spec.shape.count(-1) != 2 or spec.datatype in ("BYTES", "BOOL"):
                raise ValueError(f"pad: input {name!r} must be numeric and have one varying axis besides the batch")
            if not spec.datatype.startswith(("FP", "BF")) and not float(self.pad[name]).is_integer():
                raise ValueError(f"pad: {self.pad[name]} is no {spec.datatype}, the datatype of input {name!r}")
        return self

    @cached_property
    def batchable(self) -> bool:
        """True when axis 0 of every input and output is a batch axis and `max_batch` exceeds 1."""
        specs = (*self.inputs, *self.outputs)
        return self.max_batch > 1 and all(s.shape and s.shape[0] == -1 for s in specs)


class Lineage(Frozen):
    """How a variant came to be: parent variant (None for the reference), technique, its parameters, samples used."""

    parent: str | None = None
    technique: str
    parameters: Mapping[str, Any] = {}
    samples: int = 0
    libraries: Mapping[str, str] = {}
    created: str = ""


class BatchProfile(Frozen):
    """Latency of one engine call at a batch size, after warm-up."""

    batch: int = Field(ge=1)
    p50_seconds: float = Field(ge=0)
    p99_seconds: float = Field(ge=0)
    throughput: float = Field(ge=0, description="samples per second, one call at a time")


class Profile(Frozen):
    """What a variant measured on one device. Bytes are the engine's own share (runtime baseline subtracted): after load,
    after running every batch size and, where lengths vary, a request as most are, at the peak; `shapes_bytes`: what comes to it
    once it has been run at so many other `shapes`, a padded model at each of its few lengths, others at those of the evaluation
    data; `device_bytes` on GPUs; `engine_bytes` by the engine's own account.
    `threads`: of each call that a host makes at once; `width`: so many of those one call of this variant takes the place of
    (`Variant.width`).
    `compiled`: sha256 of what the engine made of the artefact for this device (`repository.compiled`); empty: nothing stored.
    `quality_low` and `quality_high` bound the quality with 95 % confidence, given the evaluation samples."""

    device: str
    threads: int = Field(ge=1)
    width: int = Field(default=1, ge=1)
    resident_bytes: int = Field(ge=0)
    device_bytes: int = Field(default=0, ge=0)
    loaded_bytes: int = Field(default=0, ge=0)
    peak_bytes: int = Field(default=0, ge=0)
    shapes_bytes: int = Field(default=0, ge=0)
    shapes: int = Field(default=0, ge=0)
    engine_bytes: int = Field(default=0, ge=0)
    load_seconds: float = Field(ge=0)
    warmup_seconds: float = Field(ge=0)
    batches: tuple[BatchProfile, ...]
    quality: Unit
    quality_low: Unit | None = None
    quality_high: Unit | None = None
    quality_metric: str = ""
    quality_samples: int = 0
    measured: str = ""
    compiled: str = ""

    @property
    def smallest(self) -> BatchProfile:
        """Of the fewest samples, one for nearly every variant. Raises ValueError where no batch was measured."""
        return min(self.batches, key=lambda b: b.batch)

    def host_bytes(self, shapes: int | None = None) -> int:
        """What the variant keeps in the host's memory once its calls have had so many shapes; None: all that it may come to
        have."""
        if shapes is None or shapes >= self.shapes:
            return self.resident_bytes + self.shapes_bytes
        return self.resident_bytes + self.shapes_bytes * shapes // self.shapes


class Variant(Frozen):
    """One executable form of a model. `artefact` is a file name inside the variant's folder; `files` are all of its
    files with their sha256, the artefact among them. `tolerance` bounds the canary check: largest accepted distance of
    the outputs on the stored canary inputs from the stored reference outputs (1 - cosine, or 1 - top-1 agreement, or
    relative error, as the model's metric says)."""

    name: Name
    engine: EngineName
    precision: Precision
    artefact: str
    files: Mapping[str, str] = {}
    lineage: Lineage
    options: Mapping[str, str] = {}
    tolerance: float = Field(default=0.1, ge=0)
    profiles: tuple[Profile, ...] = ()

    @property
    def runs_on(self) -> str:
        """`cpu`, or the GPU that it needs."""
        if self.engine in ("tensorrt", "tensorrt_rtx"):
            return "cuda"
        return self.options.get("device", "cpu") if self.engine == "torch" else "cpu"

    def width(self, calls: int) -> int:
        """Of so many calls that a host makes at once, those that one of this variant takes the place of: all of them where its
        engine has a single stream (option `streams`), on the threads of all."""
        return calls if self.options.get("streams") == "1" else 1

    def profile(self, device: str) -> Profile | None:
        """The profile measured on that device fingerprint, or None. Another device's is never used silently."""
        return next((p for p in self.profiles if p.device == device), None)


class Ladder(Frozen):
    """A model's Pareto-optimal variants by name, highest quality first, cheapest last."""

    model: Name
    rungs: tuple[str, ...]


class Refused(Frozen):
    """A model or variant on disk that was not loaded, and why."""

    model: str
    variant: str | None
    path: str
    reason: str


class Entry(Frozen):
    """A model with its loadable variants, its ladder on this device, and the folder they live in."""

    model: Model
    variants: Mapping[str, Variant]
    ladder: Ladder
    path: str

    def variant(self, name: str) -> Variant:
        """The variant of that name. Raises KeyError."""
        return self.variants[name]


class Catalog(Frozen):
    """Every model of the repository, as loaded on one device (`device` is its fingerprint)."""

    device: str
    entries: Mapping[str, Entry]
    refused: tuple[Refused, ...] = ()
