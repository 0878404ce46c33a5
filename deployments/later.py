"""Modules imported when they are first used, and stand-ins for those that are never used here. Standard library only."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
import threading
import types
from collections.abc import Collection, Iterator, Sequence
from importlib.machinery import ModuleSpec
from typing import Any


class _Later(types.ModuleType):
    """What is in a module's place until something is asked of it that only its code can have made. (The standard library's
    `LazyLoader` runs the code at the second `import`.)"""

    def __getattr__(self, name: str) -> Any:
        if not _run(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)


class _Loader(importlib.abc.Loader):
    """Makes a `_Later` of what `real` would load."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.lock = threading.RLock()
        self.running = False
        self._lent: tuple[str, ...] = ()

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        made: types.ModuleType | None = self.real.create_module(spec)
        return made

    def exec_module(self, module: types.ModuleType) -> None:
        module.__class__ = _Later

    def lend(self, module: types.ModuleType, names: Sequence[str]) -> None:
        self._lent = tuple(names)
        vars(module).update({name: _empty_class(name, module.__name__) for name in names})

    def take_back(self, module: types.ModuleType) -> None:
        for name in self._lent:
            del vars(module)[name]
        self._lent = ()


def _empty_class(name: str, module: str) -> type:
    return type(name, (), {"__module__": module})


def _run(module: types.ModuleType) -> bool:
    """Whether the module's code has been run, now by this thread or before by another one. False while it is running: then the
    code itself is looking. Raises what the code raises."""
    spec = module.__spec__
    loader = None if spec is None else spec.loader
    if spec is None or not isinstance(loader, _Loader):  # another thread was first
        return True
    with loader.lock:
        if spec.loader is not loader:
            return True
        if loader.running:
            return False
        loader.running = True
        loader.take_back(module)
        try:
            loader.real.exec_module(module)
        finally:
            loader.running = False
        spec.loader = module.__loader__ = loader.real
        module.__class__ = types.ModuleType
        return True


class _There(importlib.abc.Loader):
    """Gives a module that came while it was looked for; `import` would run its code again."""

    def __init__(self, module: types.ModuleType) -> None:
        self._module = module
        self._spec = module.__spec__
        module.__spec__ = None  # with one, `import` would take that one's loader instead

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return self._module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__spec__ = self._spec


class Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of those names wherever they are, as ones whose code runs later; their submodules, once it has run. Put
    it before `sys.meta_path`'s others."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = frozenset(names)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        package = sys.modules.get(name.rpartition(".")[0])
        if type(package) is _Later and _run(package) and (there := sys.modules.get(name)) is not None:
            return ModuleSpec(name, _There(there), is_package=hasattr(there, "__path__"))
        if name not in self._names:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            if (spec := finder.find_spec(name, path, target)) is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


def waits(name: str) -> bool:
    """Whether a module has been imported and its code not been run."""
    return type(sys.modules.get(name)) is _Later


@contextlib.contextmanager
def lent(name: str, attributes: Sequence[str]) -> Iterator[None]:
    """While within, and while the module of that name waits to be run, it has empty classes of these names."""
    module = importlib.import_module(name)
    loader = module.__spec__.loader if module.__spec__ is not None else None
    if isinstance(loader, _Loader) and waits(name):
        loader.lend(module, attributes)
    try:
        yield
    finally:
        if isinstance(loader, _Loader) and waits(name):
            loader.take_back(module)


class _StandIn(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _empty_class(name, self.__name__)
        setattr(self, name, made)
        return made


@contextlib.contextmanager
def stand_ins(names: Collection[str]) -> Iterator[None]:
    """While within, modules of these names that have not been imported before are stand-ins."""
    made = {name: _StandIn(name) for name in names if name not in sys.modules}
    for name, module in made.items():
        module.__path__ = []
        sys.modules[name] = module
    try:
        yield
    finally:
        for name, module in made.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


@contextlib.contextmanager
def absent(names: Collection[str]) -> Iterator[None]:
    """While within, modules of these names that have not been imported before cannot be."""
    made = [name for name in names if name not in sys.modules]
    for name in made:
        sys.modules[name] = None  # type: ignore[assignment]  # to `import`: not there
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
