"""Destroying a compiled model while other threads run Python.

OpenVINO's binding destroys one with the interpreter's lock held, for as long as several calls take where it has compiled for
many shapes, and nothing else in the process can answer a request meanwhile. So its C++ destructor is called here by ctypes, which
lets go of the lock. pybind11's conduit (its protocol between extensions, version 1) says where the C++ object is, after it has
checked the type. Where any of it is not as expected, nothing is done, and the binding does it as ever.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

log = logging.getLogger("trimtab.engine")

ABI = b"system_libstdcpp_gxx_abi_1xxx_use_cxx11_abi_1"
COMPILED_MODEL = b"N2ov13CompiledModelE"
DESTRUCTOR = "_ZN2ov13CompiledModelD1Ev"


class _TypeInfo(ctypes.Structure):
    """`std::type_info`: types are the same where their names are."""

    _fields_ = [("vtable", ctypes.c_void_p), ("name", ctypes.c_char_p)]


def destroy(compiled: Any) -> bool:
    """Destroy what an `openvino.CompiledModel` holds, which must not be used afterwards, without the interpreter's lock; tells
    whether it was done. Blocks. What infer requests still hold lives on with them."""
    try:
        destructor, kind = _native()
        held = compiled._pybind11_conduit_v1_(ABI, kind, b"raw_pointer_ephemeral")
        if held is None:
            return False
        address = _pointer(held, COMPILED_MODEL)
    except (AttributeError, OSError, ValueError, TypeError) as error:
        log.debug("the binding destroys the compiled model: %s", error)
        return False
    # The Python object stays for ever, a few hundred bytes: its end would destroy the C++ object a second time.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(compiled))
    destructor(address)
    return True


@functools.cache
def _native() -> tuple[Callable[[int], None], Any]:
    """The destructor, and the type that the conduit is asked for. Raises AttributeError, OSError, ValueError."""
    import openvino

    found = sorted((Path(openvino.__file__).parent / "libs").glob("libopenvino.so.*"))
    if len(found) != 1:
        raise OSError(f"{len(found)} libraries of OpenVINO beside {openvino.__file__}")
    destructor = getattr(ctypes.CDLL(str(found[0])), DESTRUCTOR)  # CDLL: without the lock
    destructor.restype, destructor.argtypes = None, [ctypes.c_void_p]
    table = ctypes.c_void_p.in_dll(ctypes.CDLL("libstdc++.so.6"), "_ZTVN10__cxxabiv117__class_type_infoE")
    first_method = ctypes.addressof(table) + 2 * ctypes.sizeof(ctypes.c_void_p)
    return destructor, _capsule(_TypeInfo(first_method, COMPILED_MODEL))


def _capsule(info: _TypeInfo) -> Any:
    _KEPT.append(info)
    make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return make(("PyCapsule_New", ctypes.pythonapi))(ctypes.addressof(info), _CAPSULE_NAME, None)


#: A capsule borrows what it points to, and its name.
_KEPT: list[_TypeInfo] = []
_CAPSULE_NAME = b"St9type_info"


def _pointer(capsule: Any, name: bytes) -> int:
    """Raises ValueError for a capsule of another name."""
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)
    return int(get(("PyCapsule_GetPointer", ctypes.pythonapi))(capsule, name))
