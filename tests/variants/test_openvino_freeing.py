"""Compiled models are destroyed without the interpreter's lock, or by the binding where that cannot be done."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from variants.engines import openvino_, openvino_freeing
from variants.engines.openvino_freeing import destroy

openvino = pytest.importorskip("openvino")


def compiled() -> Any:
    """y = 2 x."""
    from openvino import opset13 as op

    x = op.parameter([-1, 3], np.float32, name="x")
    return openvino_._core().compile_model(openvino.Model([op.multiply(x, np.float32(2))], [x]), "CPU")


def doubled(request: Any) -> list[float]:
    request.infer([np.arange(3, dtype=np.float32)[None]])
    return list(request.get_output_tensor(0).data.ravel())


def test_it_is_done_here_and_only_what_requests_hold_lives_on():
    first, second = compiled(), compiled()
    request = first.create_infer_request()
    assert destroy(first)
    del first
    assert doubled(request) == [0.0, 2.0, 4.0]
    del request
    assert doubled(second.create_infer_request()) == [0.0, 2.0, 4.0]
    assert destroy(second)


class Other:
    """Of a binding whose conduit answers so."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def _pybind11_conduit_v1_(self, *asked: Any) -> Any:
        return self._answer


@pytest.mark.parametrize("model", [object(), Other(None), Other("no capsule")])
def test_what_is_something_else_is_left_alone(model):
    assert not destroy(model)
    assert not destroy(openvino.Core())


def test_where_the_library_is_not_found_the_binding_does_it(monkeypatch):
    openvino_freeing._native.cache_clear()
    try:
        monkeypatch.setattr(openvino_freeing, "DESTRUCTOR", "no_such_function")
        model = compiled()
        assert not destroy(model)
        assert doubled(model.create_infer_request()) == [0.0, 2.0, 4.0]
    finally:
        openvino_freeing._native.cache_clear()
