"""The suite itself: what is there is run."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    tests = pytestconfig.rootpath / "tests"
    folders = {p.parent.relative_to(tests) for p in tests.rglob("test_*.py")}
    assert len(folders) > 5
    passed_over = pytestconfig.getini("norecursedirs")
    assert [f for f in folders if any(fnmatch(part, pattern) for part in f.parts for pattern in passed_over)] == []
