from __future__ import annotations

import json
from dataclasses import replace

import pytest

from budgets.snapshot import HostState, Serving, Staged
from deployments.actuator import (
    followed,
    from_user_config,
    reasserted,
    replace_user_config,
    to_user_config,
    user_config_of,
    with_plan,
)
from deployments.api import Assignment


def test_an_assignment_survives_the_user_config() -> None:
    staged = {"a": Staged(variant="fp32", hosts=("h1", "h2"))}
    serving = {"a": Serving(batch=4, objective=0.05, weight=2.0)}
    assignment = Assignment(7, {"a": "int8", "b": None}, {"a": "break_before_make"}, staged, serving=serving)
    assert assignment.on("h3").serving == serving
    config = to_user_config(assignment)
    assert from_user_config(json.loads(json.dumps(config))) == assignment
    del config["staged"], config["modes"], config["serving"]
    assert from_user_config(config) == Assignment(7, {"a": "int8", "b": None})


def test_what_was_unloaded_stays_so_whatever_is_planned() -> None:
    before = Assignment(7, {"a": "int8"}, unloaded=frozenset({"b", "a"}), orders=2)
    assert from_user_config(json.loads(json.dumps(to_user_config(before)))) == before
    assert "unloaded" not in to_user_config(Assignment(7, {"a": "int8"}))
    for group in ("default", "big"):
        made = with_plan(before, group, Assignment(8, {"a": "fp32"}), {})
        assert made.unloaded == made.on("h", "big").unloaded == made.on("h").unloaded == {"a", "b"}
        assert made.orders == made.on("h").orders == 2


def test_what_hosts_follow_takes_the_place_of_what_is_older() -> None:
    anew = Assignment(1, {})
    plans = {"default": Assignment(7, {"a": "int8"}), "big": Assignment(4, {"a": "bf16"})}
    told = reasserted(anew, plans, {"b"}, 5)
    assert told == Assignment(7, {"a": "int8"}, groups={"big": plans["big"]}, unloaded=frozenset({"b"}), orders=5)
    assert reasserted(told, plans, {"b"}, 5) is told, "nothing is new"
    newer = replace(told, generation=8, orders=6, unloaded=frozenset({"c"}))
    assert reasserted(newer, plans, {"b"}, 5) is newer


def test_what_is_unloaded_is_so_on_every_host_that_has_the_last_order() -> None:
    def host(orders: int, *unloaded: str) -> HostState:
        return HostState(
            host="h", pid=1, at=0, observed_generation=1, variants={}, unloaded=tuple(unloaded), orders=orders
        )

    assert followed([]) == (set(), 0)
    assert followed([host(2, "a", "b"), host(2, "b"), host(0, "c")]) == ({"b"}, 2)


def test_what_is_on_trial_on_a_host() -> None:
    staged = {"a": Staged(variant="fp32", hosts=("h1",))}
    assignment = Assignment(7, {"a": "int8", "b": None}, {"a": "make_before_break"}, staged)
    assert assignment.on("h1").variants == {"a": "fp32", "b": None}
    assert assignment.on("h2").variants == {"a": "int8", "b": None}


def test_a_host_is_told_its_groups_plan() -> None:
    trial = {"a": Staged(variant="fp32", hosts=("h1",))}
    assignment = Assignment(7, {"a": "int8"}, {}, trial, {"big": Assignment(4, {"a": "bf16"}, {}, trial)})
    assert from_user_config(json.loads(json.dumps(to_user_config(assignment)))) == assignment
    assert assignment.on("h2") == assignment.on("h2", "default") == Assignment(7, {"a": "int8"})
    assert assignment.on("h2", "big") == Assignment(4, {"a": "bf16"})
    assert assignment.on("h1", "big").variants == {"a": "fp32"}
    assert assignment.on("h2", "never planned") == Assignment(7, {"a": "int8"})


def test_one_groups_plan_leaves_the_others_as_they_were() -> None:
    before = Assignment(7, {"a": "int8"}, {"a": "break_before_make"}, groups={"big": Assignment(4, {"a": "bf16"})})
    runs = {
        "default": Assignment(6, {"a": "old"}),
        "big": Assignment(3, {"a": "old"}),
        "new": Assignment(7, {"a": "int8"}),
    }
    big = with_plan(before, "big", Assignment(5, {"a": "fp32"}), runs)
    assert big == replace(before, groups={"big": Assignment(5, {"a": "fp32"}), "new": runs["new"]})
    default = with_plan(before, "default", Assignment(8, {"a": "fp32"}), runs)
    assert default == Assignment(8, {"a": "fp32"}, groups={"big": Assignment(4, {"a": "bf16"}), "new": runs["new"]})
    first = with_plan(None, "big", Assignment(5, {"a": "fp32"}), runs)
    assert (first.variants, set(first.groups)) == ({"a": "old"}, {"big", "new"})


def test_the_user_config_that_is_deployed() -> None:
    applications = [
        {"name": "trimtab", "deployments": [{"name": "control"}, {"name": "host", "user_config": {"k": 1}}]}
    ]
    assert user_config_of(applications, "trimtab", "host") == {"k": 1}
    assert user_config_of(applications, "trimtab", "control") == user_config_of(applications, "other", "host") == {}


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
