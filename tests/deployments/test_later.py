"""Modules that run when they are first used are the same modules; stand-ins and absent ones leave no trace."""

import importlib
import sys
import threading

import pytest

from deployments.later import Finder, absent, lent, stand_ins, waits

PACKAGE = {
    "__init__.py": "import ran, sys\nran.append('late')\nfrom .errors import Wrong\nSELF = hasattr(sys.modules['late'], 'Never')\n",
    "errors.py": "import ran\nran.append('late.errors')\nclass Wrong(Exception): pass\nclass Worse(Wrong): pass\n",
}


@pytest.fixture
def late(tmp_path, monkeypatch):
    """The package `late`, which waits; `ran`: what of it has been run."""
    (tmp_path / "late").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "late" / name).write_text(text)
    ran: list[str] = []
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "ran", ran)
    monkeypatch.setattr(sys, "meta_path", [Finder(["late", "nowhere"]), *sys.meta_path])
    yield ran
    for name in ("late", "late.errors"):
        sys.modules.pop(name, None)


def test_it_runs_when_something_is_asked_of_it_and_not_at_each_import(late):
    import late as module

    importlib.import_module("late")
    assert late == []
    assert waits("late")
    assert module.__spec__.name == "late"
    assert module.Wrong.__name__ == "Wrong"
    assert late == ["late", "late.errors"]
    assert not waits("late")
    assert type(module) is type(sys)
    assert module.SELF is False
    with pytest.raises(AttributeError, match="Never"):
        _ = module.Never


def test_a_submodule_that_is_imported_first_is_run_once(late):
    import late as module
    import late.errors as errors

    assert late == ["late", "late.errors"]
    assert issubclass(errors.Worse, module.Wrong)
    assert errors.__spec__.name == "late.errors"
    assert sys.modules["late.errors"] is errors is module.errors


def test_names_taken_from_it_are_its_own(late):
    from late import Wrong

    assert late == ["late", "late.errors"]
    assert Wrong.__module__ == "late.errors"


def test_what_is_not_installed_is_not_there(late):
    with pytest.raises(ImportError):
        importlib.import_module("nowhere")


def test_what_its_code_raises_comes_out_where_it_is_used(late, tmp_path):
    (tmp_path / "late" / "__init__.py").write_text("import ran\nran.append('late')\nraise ValueError('broken')\n")
    import late as module

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            _ = module.Wrong
    assert late == ["late", "late"]


def test_threads_that_come_together_all_find_a_whole_module(late, tmp_path):
    (tmp_path / "late" / "__init__.py").write_text("import ran, time\nran.append('late')\ntime.sleep(0.05)\nLAST = 1\n")
    import late as module

    found = []
    threads = [threading.Thread(target=lambda: found.append(module.LAST)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1] * 8
    assert late == ["late"]


def test_lent_names_are_there_until_it_runs(late):
    with lent("late", ["Wrong", "Other"]):
        import late as module

        assert (module.Wrong.__name__, module.Other.__module__) == ("Wrong", "late")
        assert late == []
    assert waits("late")
    assert "Other" not in vars(module)
    with lent("late", ["Wrong"]):
        lent_one = module.Wrong
        assert module.errors.Wrong is module.Wrong is not lent_one
    assert module.Wrong is module.errors.Wrong


def test_stand_ins_have_every_name_and_go():
    with stand_ins(["made_up", "made_up.inner", "json"]):
        import made_up
        from made_up.inner import Anything

        assert not isinstance(object(), Anything)
        assert made_up.Other is made_up.Other
        with pytest.raises(AttributeError):
            _ = made_up.__version__
        assert importlib.import_module("json").dumps(1) == "1"
    assert "made_up" not in sys.modules
    assert "json" in sys.modules


def test_what_is_absent_cannot_be_imported_until_it_is_back(late):
    with absent(["late", "json"]):
        with pytest.raises(ImportError):
            importlib.import_module("late")
        assert importlib.import_module("json").dumps(1) == "1"
    assert importlib.import_module("late").Wrong
