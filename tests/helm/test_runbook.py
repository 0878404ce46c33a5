"""What the documents say to do exists: commands, values, series; and what they install renders."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from budgets import exposition
from server.cli import app
from server.settings import Settings
from tests.helm.rendering import CHART, ROOT, chart, objects

RUNBOOK = (CHART / "RUNBOOK.md").read_text(encoding="utf-8")
DOCUMENTS = {
    "RUNBOOK": RUNBOOK,
    "README": (ROOT / "README.md").read_text(encoding="utf-8"),
    "chart": (CHART / "README.md").read_text(encoding="utf-8"),
}
#: Of the configuration: `controller.retry_seconds`; of the chart's values: `config.replicas`, `prometheusRule.errorRatio`.
SECTION = re.compile(r"`((?:controller|host|config|metrics|probes|prometheus|prometheusRule|repository)\.[\w.]+)`")


def commands(text: str) -> list[str]:
    """Every `trimtab …` in code, whatever stands before the word or after a comment sign."""
    code = re.findall(r"`([^`\n]+)`", text) + [
        line
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    found = (re.match(r"(?:\S*/bin/)?trimtab (\w[^#|&;>]*)", piece.strip()) for piece in code)
    return sorted({m[1].strip() for m in found if m})


CASES = [(name, command) for name, text in DOCUMENTS.items() for command in commands(text)]


@pytest.mark.parametrize(("document", "command"), CASES, ids=[" ".join(c) for c in CASES])
def test_a_command_is_one_that_the_tool_takes(document: str, command: str) -> None:
    """Parsed by the tool itself, up to where it would run."""
    node, arguments = typer.main.get_command(app), shlex.split(command.replace("…", ""))
    while isinstance(node, click.Group) or hasattr(node, "commands"):
        assert arguments, f"{document}: trimtab {command} is a group"
        name, *arguments = arguments
        assert name in node.commands, f"{document}: no command {name!r} in: trimtab {command}"
        node = node.commands[name]
    if arguments:  # else it is only named
        node.make_context(node.name or "", list(arguments))


def test_the_runbook_has_commands_to_check() -> None:
    assert {"status", "plan", "quarantine clear MODEL VARIANT", "budgets set NAME --limit 6GiB"} <= set(
        commands(RUNBOOK)
    )


def test_values_and_settings_exist() -> None:
    schema = chart().schema
    assert schema is not None
    settings = Settings.model_json_schema()
    for name in sorted(set(SECTION.findall(RUNBOOK))):
        inside = name.removeprefix("config.")
        looked = [(settings, settings["$defs"], inside), (schema, schema["$defs"], name)]
        assert any(has(tree, definitions, path.split(".")) for tree, definitions, path in looked), name


def has(node: dict[str, object], definitions: dict[str, dict[str, object]], path: list[str]) -> bool:
    """Whether a schema has a property at this path."""
    while isinstance(reference := node.get("$ref"), str):
        node = definitions[reference.rpartition("/")[2]]
    if not path:
        return True
    properties = node.get("properties")
    return isinstance(properties, dict) and path[0] in properties and has(properties[path[0]], definitions, path[1:])


def test_series_are_exposed() -> None:
    exposed = {v for k, v in vars(exposition).items() if k.isupper() and isinstance(v, str)}
    named = set(re.findall(r"\btrimtab_\w+", RUNBOOK))
    assert named
    assert named <= exposed


INSTALLS = [
    (name, line) for name, text in DOCUMENTS.items() for line in re.findall(r"^helm install .*$", text, re.MULTILINE)
]


@pytest.mark.parametrize(("document", "line"), INSTALLS, ids=[name for name, _ in INSTALLS])
def test_an_install_line_installs_this_chart(document: str, line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    assert (ROOT / words[3]).samefile(CHART)
    values: dict[str, Any] = {}
    for flag, value in itertools.pairwise(words):
        if flag in ("-f", "--values"):
            file = ROOT / value
            assert file.exists() or value == "my-values.yaml", f"{document}: {value}"
            values |= yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else {}
    assert words[words.index("--namespace") + 1]
    assert len(objects(values)) >= 3


def test_both_documents_have_one() -> None:
    assert {name for name, _ in INSTALLS} == {"README", "chart"}
