"""The CPU image is built and run without a container daemon: buildah in a chroot, on a base made by debootstrap.

What runs is the image's own command as its own user, on a read-only root, in namespaces of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.conftest import WIDTH
from tests.helm.rendering import ROOT

TOOLS = ("buildah", "debootstrap", "ip", "nsenter", "unshare")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
MIRROR = "http://deb.debian.org/debian"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian packages)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chroot and mount"),
]
#: Mounts a root read-only, with the folders over it that a pod has, and becomes the image's command. The machine is slow when
#: it has just built an image: Ray gets more time to start.
START = """
set -eu
root=$1 user=$2 models=$3 config=$4; shift 4
ip link set lo up
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind "$models" "$root/models"
mount -o remount,bind,ro "$root/models"
mount --bind "$config" "$root/etc/trimtab"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$root/var/lib/trimtab"
exec chroot --userspec="$user" "$root" /usr/bin/env --ignore-environment --chdir=/var/lib/trimtab "$@"
"""


SLOW = ("RAY_raylet_start_wait_time_s=180",)


def buildah(folder: Path, *arguments: str, timeout: int = 600) -> str:
    command = [
        "buildah",
        "--root",
        str(folder / "storage"),
        "--runroot",
        str(folder / "run"),
        "--storage-driver",
        "vfs",
    ]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == 0, f"buildah {' '.join(arguments)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout.strip()


def base_image(folder: Path) -> str:
    """Debian with its Python, under the names that the Dockerfile's own base has."""
    tree = folder / "base"
    packages = "ca-certificates,libgomp1,libstdc++6,python3.11,python3.11-venv,python3-pip"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree), MIRROR]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, f"debootstrap: {done.stdout[-1000:]}{done.stderr[-1000:]}"
    for name in ("python", "python3"):
        (tree / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    container = buildah(folder, "from", "scratch")
    buildah(folder, "copy", container, str(tree), "/")
    buildah(folder, "commit", "--rm", container, "localhost/base")
    shutil.rmtree(tree)
    return "localhost/base"


def package_index(folder: Path) -> list[str]:
    """Arguments that let the build's pip find packages as this environment's does."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    settings = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        settings[key.rpartition(".")[2]] = value.strip("'")
    lines, arguments = ["[global]"], []
    for key in ("cert", "index-url", "find-links"):
        if key in settings:
            lines.append(f"{key} = {settings[key]}")
    for path in (settings.get("cert", ""), settings.get("find-links", "")):
        if path.startswith("/"):
            arguments += ["--volume", f"{path}:{path}:ro"]
    file = folder / "pip.conf"
    file.write_text("\n".join(lines) + "\n")
    here = "find-links" in settings and any(Path(settings["find-links"]).glob("torch-*+cpu*"))
    index = settings.get("index-url", "https://pypi.org/simple") if here else TORCH_INDEX
    return [*arguments, "--volume", f"{file}:/etc/pip.conf:ro", "--build-arg", f"TORCH_INDEX={index}"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """The built image's configuration, and where its root is mounted."""
    folder = tmp_path_factory.mktemp("image")
    try:
        base = base_image(folder)
        command = [
            "build",
            "--isolation",
            "chroot",
            "--format",
            "docker",
            "--target",
            "cpu",
            "--tag",
            "localhost/trimtab",
        ]
        arguments = [*command, "--build-arg", f"PYTHON_IMAGE={base}", *package_index(folder), str(ROOT)]
        buildah(folder, *arguments, timeout=3000)
        described = json.loads(buildah(folder, "inspect", "--type", "image", "localhost/trimtab"))
        container = buildah(folder, "from", "--pull-never", "localhost/trimtab")
        yield described["Docker"]["config"], Path(buildah(folder, "mount", container))
    finally:
        with contextlib.suppress(AssertionError):
            buildah(folder, "rm", "--all")
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Running:
    """The image's command, its process in the container's namespaces, and its log."""

    config: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: Path

    def first(self) -> psutil.Process:
        """Process 1 of the container. Raises IndexError before it is there."""
        return psutil.Process(self.process.pid).children()[0]

    def execute(self, *command: str, timeout: int = 60) -> subprocess.CompletedProcess[str]:
        """Run a command in the container, as the image's user."""
        enter = ["nsenter", "--target", str(self.first().pid), "--mount", "--pid", "--net", "--root", "--wd=/tmp"]
        uid, gid = self.config["User"].split(":")
        user = ["--setuid", uid, "--setgid", gid]
        environment = ["/usr/bin/env", "--ignore-environment", *self.config["Env"]]
        return subprocess.run(
            [*enter, *user, *environment, *command], capture_output=True, text=True, check=False, timeout=timeout
        )

    def healthy(self) -> bool:
        """What the image's own HEALTHCHECK says."""
        with contextlib.suppress(IndexError, psutil.Error, subprocess.TimeoutExpired):
            return self.execute(*self.config["Healthcheck"]["Test"][1:]).returncode == 0
        return False


@contextlib.contextmanager
def running(image: tuple[dict[str, Any], Path], models: Path, config: Path, log: Path) -> Iterator[Running]:
    """Start the image's command, as its user, on a read-only root."""
    described, root = image
    command = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-c", START, "sh"]
    command += [str(root), described["User"], str(models), str(config), *described["Env"], *SLOW]
    command += [*described["Entrypoint"], *described["Cmd"]]
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield Running(described, process, log)
    finally:
        process.kill()
        process.wait(timeout=60)


def test_the_image_says_what_it_is(image: tuple[dict[str, Any], Path]) -> None:
    described, root = image
    assert described["User"] == "10001:10001"
    assert described["Labels"]["org.opencontainers.image.title"] == "trimtab"
    assert described["Healthcheck"]["Test"][0] == "CMD"
    assert set(described["ExposedPorts"]) >= {"8000/tcp", "8001/tcp"}
    programs = {path.name for path in (root / "opt/trimtab/bin").iterdir()}
    assert "trimtab" in programs
    assert not any(name.startswith("pip") for name in programs)
    assert not (root / "src").exists()


def test_it_serves_on_a_read_only_root_and_stops_when_told(
    image: tuple[dict[str, Any], Path], affine_repository: Path, tmp_path: Path
) -> None:
    document = {
        "repository": "/models",
        "controller": {"journal": "/var/lib/trimtab/journal.jsonl"},
        "budgets": [{"name": "ram", "resource": "ram"}],
    }
    config = tmp_path / "config"
    config.mkdir()
    (config / "trimtab.yaml").write_text(yaml.safe_dump(document))
    for path in (config, affine_repository, *affine_repository.rglob("*")):  # the image's user reads them
        path.chmod(0o755)
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, WIDTH], "data": [0.0] * WIDTH}]}
    ask = (
        "import sys, urllib.request as u; "
        "print(u.urlopen('http://127.0.0.1:8000/v2/models/alpha/infer', sys.argv[1].encode()).read().decode())"
    )
    log = tmp_path / "log"
    with running(image, affine_repository, config, log) as server:
        deadline = time.monotonic() + 400
        while "ready in" not in log.read_text() and time.monotonic() < deadline and server.process.poll() is None:
            time.sleep(1)
        assert "ready in" in log.read_text(), log.read_text()[-4000:]
        assert server.healthy()
        answer = server.execute("python", "-c", ask, json.dumps(body))
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["outputs"][0]["shape"] == [1, WIDTH]
        for place in ("/opt/trimtab/x", "/models/x", "/x"):
            assert "Read-only file system" in server.execute("touch", place).stderr
        fetched = server.execute("trimtab", "fetch", "file:///models", "/tmp/fetched", timeout=120)
        assert "verified alpha, beta" in fetched.stdout, fetched.stderr
        first = server.first()
        assert {first.uids().real, first.gids().real} == {10001}
        first.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=180) == 0, log.read_text()[-4000:]
    assert "stopped" in log.read_text()
