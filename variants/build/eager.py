"""torch: the module itself, executed by the torch engine (CPU or CUDA), its weights as safetensors beside it."""

from __future__ import annotations

from pathlib import Path

from variants.build.context import Context, Draft
from variants.catalog import Precision, Variant
from variants.data import resolve
from variants.errors import BuildError

WEIGHTS = "weights.safetensors"
PRECISIONS: dict[str, Precision] = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16"}


def torch(context: Context, parent: Variant | None) -> Draft:
    """The source's module in `precision` (fp32, fp16, bf16; fp16 is for CUDA). The factory is called again to load it.

    Raises BuildError for a model whose source is no factory, or an unknown precision.
    """
    factory = context.model.source.factory
    if factory is None:
        raise BuildError(f"{context.model.name}: {context.name}: needs source.factory; an ONNX source has no module")
    precision = context.parameter("precision", "fp32")
    if precision not in PRECISIONS:
        accepted = ", ".join(PRECISIONS)
        raise BuildError(
            f"{context.model.name}: techniques.{context.name}.precision: {precision!r}; accepted: {accepted}"
        )
    module = resolve(context.folder, factory)()
    record = Variant(
        name=context.name,
        engine="torch",
        precision=PRECISIONS[precision],
        artefact=WEIGHTS,
        lineage=context.lineage(parent, "torch", 0, ("torch",), precision=precision),
        options={"factory": factory},
        tolerance=0.05,
    )

    def fill(folder: Path) -> None:
        from safetensors.torch import save_file

        # Clones: tensors that share storage are not accepted.
        save_file({name: t.detach().clone().contiguous() for name, t in module.state_dict().items()}, folder / WEIGHTS)

    return Draft(record, fill)
