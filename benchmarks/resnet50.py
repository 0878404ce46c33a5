"""What int8 costs and saves on ResNet-50: built, measured and compared like any model. Random weights: for cost only.

python -m benchmarks.resnet50 [--folder KEEP]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from variants import profiler
from variants.build import pipeline
from variants.catalog import Profile
from variants.repository import load_catalog

CODE = '''"""ResNet-50 with random weights."""

import numpy as np
import torch


def network():
    """He et al., "Deep Residual Learning for Image Recognition" (2015), as transformers has it."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model = ResNetForImageClassification(ResNetConfig(num_labels=1000)).eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, image):
            return self.model(image).logits

    return Logits().eval()


def images():
    return {"image": np.random.default_rng(0).normal(size=(64, 3, 224, 224)).astype(np.float32)}
'''
MODEL = """
name: resnet50
task: image-classification
metric: cosine
inputs: [{name: image, datatype: FP32, shape: [-1, 3, 224, 224]}]
outputs: [{name: scores, datatype: FP32, shape: [-1, 1000]}]
max_batch: 8
source: {factory: "model.py:network"}
data: {calibration: "model.py:images", evaluation: "model.py:images"}
build: [fp32, int8]
"""
#: What int8 must reach beside fp32.
FASTER, SMALLER = 2.5, 0.5


def main(root: Path) -> int:
    folder = root / "resnet50"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(CODE)
    (folder / "model.yaml").write_text(MODEL)
    summary = pipeline.build(folder)
    if summary.failed:
        print("\n".join(summary.failed.values()))
        return 1
    entry = load_catalog(root).entries["resnet50"]
    measured = {n: profiler.profile(folder, entry, n, seconds_per_batch=3.0) for n in ("fp32", "int8")}
    for name, profile in measured.items():
        calls = ", ".join(f"{b.batch}: {b.p50_seconds * 1e3:.1f} ms {b.throughput:.1f}/s" for b in profile.batches)
        print(f"{name}: {profile.resident_bytes / 2**20:.1f} MiB resident; by batch {calls}; quality {profile.quality}")
    faster = best(measured["int8"]) / best(measured["fp32"])
    smaller = measured["int8"].resident_bytes / measured["fp32"].resident_bytes
    held = faster >= FASTER and smaller <= SMALLER
    print(
        f"int8 is {faster:.2f} times as fast as fp32 (at least {FASTER}) and takes {smaller:.2f} of its resident bytes "
        f"(at most {SMALLER}): {'held' if held else 'MISSED'}"
    )
    return 0 if held else 1


def best(profile: Profile) -> float:
    """Samples per second at the batch size that has most."""
    return max(b.throughput for b in profile.batches)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the model here, to measure it again without building it")
    folder = parser.parse_args().folder
    if folder is not None:
        sys.exit(main(folder))
    with tempfile.TemporaryDirectory(prefix="trimtab-resnet50-") as scratch:
        sys.exit(main(Path(scratch)))
