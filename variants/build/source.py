"""The torch module behind a model, from whichever source it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from variants.build.context import silent
from variants.catalog import Model
from variants.data import inside, resolve
from variants.errors import BuildError


def source_module(folder: Path, model: Model, name: str, *, factory: str = "") -> Any:
    """The source's `nn.Module` in evaluation mode, or another factory's. Raises BuildError, naming technique `name`,
    where there is none."""
    source = model.source
    factory = factory or source.factory or ""
    if factory:
        function = resolve(folder, factory)
        try:
            return function().eval()
        except Exception as error:
            raise BuildError(
                f"{model.name}: {name}: {factory!r} made no torch module: {type(error).__name__}: {error}"
            ) from error
    if source.program is not None:
        return _program(inside(folder, source.program), model, name)
    if source.huggingface is not None:
        return _huggingface(inside(folder, source.huggingface), model, name)
    kind = source.given[0]
    raise BuildError(
        f"{model.name}: {name}: source.{kind} ({getattr(source, kind)}) has no torch module to change; "
        "source.factory or source.huggingface has one, and distil can teach a module of its own (student)"
    )


def _program(path: Path, model: Model, name: str) -> Any:
    import torch

    if not path.is_file() or path.suffix != ".pt2":
        why = "no such file" if not path.is_file() else "its name must end in .pt2"
        raise BuildError(f"{model.name}: {name}: {path}: {why} (source.program in model.yaml)")
    try:
        with silent():
            return torch.export.load(path).module()
    except Exception as error:
        raise BuildError(f"{model.name}: {name}: {path}: not a torch.export program: {error}") from error


def _huggingface(folder: Path, model: Model, name: str) -> Any:
    """A module around a transformers model of the class that `config.json: architectures` names. Nothing is
    downloaded, and no code of the folder is run."""
    import torch
    import transformers

    if not (folder / "config.json").is_file():
        raise BuildError(f"{model.name}: {name}: {folder}: no config.json there (source.huggingface in model.yaml)")
    try:
        transformers.utils.logging.disable_progress_bar()
        config = transformers.AutoConfig.from_pretrained(  # nosec B615  # of the folder: nothing is fetched
            folder, local_files_only=True, trust_remote_code=False
        )
        architecture = (config.architectures or ["none"])[0]
        kind = getattr(transformers, architecture)
        loaded = kind.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, attn_implementation="eager", dtype=torch.float32
        )
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BuildError(
            f"{model.name}: {name}: {folder}: transformers cannot load it (config.json and *.safetensors are needed): {reason}"
        ) from error
    inputs = [spec.name for spec in model.inputs]
    outputs = [spec.name for spec in model.outputs]

    class Named(torch.nn.Module):
        """Inputs by position, outputs as a tuple, as `model.yaml` orders them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = loaded

        def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
            answer = self.model(**dict(zip(inputs, values, strict=True)), return_dict=True)
            absent = [n for n in outputs if answer.get(n) is None]
            if absent:
                raise BuildError(
                    f"{model.name}: {architecture} returns {', '.join(answer)}; model.yaml declares {', '.join(absent)}"
                )
            return tuple(answer[n] for n in outputs)

    return Named().eval()
