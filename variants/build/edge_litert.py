"""Stand-alone: a `torch.export` program to a `.tflite` file. Run as `python edge_litert.py PROGRAM TARGET INPUTS.npz`.

Imports nothing of trimtab: litert-torch may live in an environment of its own.
"""

import sys

import litert_torch
import numpy as np
import torch


def main(program: str, target: str, inputs: str) -> None:
    """Convert, with the shapes of the samples."""
    with np.load(inputs) as arrays:
        values = tuple(torch.from_numpy(arrays[name]) for name in arrays.files)
    module = torch.export.load(program).module()
    litert_torch.convert(module, values, strict_export=False).export(target)


if __name__ == "__main__":
    main(*sys.argv[1:4])
