"""The boundary between a model's declared datatypes and those an artefact takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from variants.catalog import TensorSpec
from variants.datatypes import NUMPY
from variants.engines.base import Array


def cast(array: Array, dtype: np.dtype[np.generic]) -> Array:
    """The array as that dtype, without a copy when it is that already."""
    return array if array.dtype == dtype else array.astype(dtype)


def outputs_as_declared(raw: Mapping[str, Array], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """An artefact's outputs in the declared dtypes, by declared name. Raises KeyError for one that it does not have."""
    return {spec.name: cast(raw[spec.name], NUMPY[spec.datatype]) for spec in specs}
