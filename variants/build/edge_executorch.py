"""Stand-alone: a `torch.export` program to a `.pte` file for XNNPACK, and its outputs by ExecuTorch's own runtime.

Run as `python edge_executorch.py PROGRAM TARGET INPUTS.npz OUTPUTS.npz`. Imports nothing of trimtab: executorch may live
in an environment of its own.
"""

import sys

import numpy as np
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime


def main(program: str, target: str, inputs: str, outputs: str) -> None:
    """Convert, then run the file on the samples."""
    with np.load(inputs) as arrays:
        values = tuple(torch.from_numpy(arrays[name]) for name in arrays.files)
    lowered = to_edge_transform_and_lower(torch.export.load(program), partitioner=[XnnpackPartitioner()])
    with open(target, "wb") as stream:  # noqa: PTH123
        lowered.to_executorch().write_to_file(stream)
    method = Runtime.get().load_program(target).load_method("forward")
    results = method.execute(list(values))
    np.savez(outputs, *[np.asarray(r) for r in results])


if __name__ == "__main__":
    main(*sys.argv[1:5])
