from __future__ import annotations

import json

import pytest

from budgets.snapshot import Staged
from deployments.actuator import from_user_config, replace_user_config, to_user_config
from deployments.api import Assignment


def test_an_assignment_survives_the_user_config() -> None:
    staged = {"a": Staged(variant="fp32", hosts=("h1", "h2"))}
    assignment = Assignment(7, {"a": "int8", "b": None}, {"a": "break_before_make"}, staged)
    config = to_user_config(assignment)
    assert from_user_config(json.loads(json.dumps(config))) == assignment
    del config["staged"], config["modes"]
    assert from_user_config(config) == Assignment(7, {"a": "int8", "b": None})


def test_what_is_on_trial_on_a_host() -> None:
    staged = {"a": Staged(variant="fp32", hosts=("h1",))}
    assignment = Assignment(7, {"a": "int8", "b": None}, {"a": "make_before_break"}, staged)
    assert assignment.on("h1").variants == {"a": "fp32", "b": None}
    assert assignment.on("h2").variants == {"a": "int8", "b": None}


def test_only_the_hosts_user_config_changes() -> None:
    other = {"name": "other", "import_path": "x:y", "deployments": [{"name": "host", "user_config": {"k": 1}}]}
    mine = {
        "name": "trimtab",
        "import_path": "server.ingress:build",
        "deployments": [{"name": "control"}, {"name": "host", "num_replicas": 2, "user_config": {"generation": 1}}],
    }
    changed = replace_user_config([other, mine], "trimtab", "host", {"generation": 2})
    assert changed[0] == other
    deployments = {d["name"]: d for d in changed[1]["deployments"]}
    assert deployments["host"] == {"name": "host", "num_replicas": 2, "user_config": {"generation": 2}}
    assert deployments["control"] == {"name": "control"}
    assert mine["deployments"][1]["user_config"] == {"generation": 1}


def test_a_deployment_that_was_not_named_is_added() -> None:
    changed = replace_user_config([{"name": "trimtab"}], "trimtab", "host", {"generation": 2})
    assert changed == [{"name": "trimtab", "deployments": [{"name": "host", "user_config": {"generation": 2}}]}]


def test_an_application_that_is_gone() -> None:
    with pytest.raises(LookupError, match="trimtab"):
        replace_user_config([{"name": "other"}], "trimtab", "host", {})
