"""Pods of a rendered RayService as namespaces of this machine, started as KubeRay starts them. Needs root, ip, unshare, nsenter.

A pod has a network of its own (joined to the others by a bridge), a /tmp and a /dev/shm of its own, and the environment and
the start parameters of its template. What the image and its volumes have at fixed paths is found at other ones here: each is
replaced wherever it is written. Run inside `unshare --net --mount --pid`, so that nothing outlives it.
"""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.helm.rendering import Object, serve_config

BRIDGE = "trimtab0"
GATEWAY = "10.77.0.1"
SHELL = 'mount --bind "$2" /tmp && mount -t tmpfs tmpfs /dev/shm && read -r _ && eval "exec $1"'


@dataclass
class Pod:
    """A running one. `container` is its template's."""

    name: str
    address: str
    container: Object
    process: subprocess.Popen[bytes]
    log: Path

    def probe(self, which: str) -> int:
        """What the kubelet would see: the status of the template's HTTP probe. Raises OSError when nothing answers."""
        get = self.container[which]["httpGet"]
        ports = {p["name"]: p["containerPort"] for p in self.container["ports"]}
        url = f"{get.get('scheme', 'HTTP').lower()}://{self.address}:{ports.get(get['port'], get['port'])}{get['path']}"
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        with urllib.request.urlopen(url, timeout=5, context=unchecked if url.startswith("https") else None) as answer:
            return int(answer.status)


class Cluster:
    """The pods of one RayService. `here`: a path of the image or of a volume -> where that is on this machine. `secrets`: a
    Secret's name and key -> its value."""

    def __init__(
        self, rendered: list[Object], folder: Path, here: Mapping[str, Path], secrets: Mapping[tuple[str, str], str]
    ) -> None:
        (self._service,) = [o for o in rendered if o["kind"] == "RayService"]
        self._folder = folder
        self._here = here
        self._secrets = secrets
        self.serve_config = self.localised(serve_config(rendered))
        self.pods: dict[str, Pod] = {}

    def localised(self, document: Any) -> Any:
        """A document with this machine's paths in it."""
        text = yaml.safe_dump(document, width=10_000)
        for path, here in self._here.items():
            text = text.replace(path, str(here))
        return yaml.safe_load(text)

    @contextlib.contextmanager
    def running(self, extra: Mapping[str, str]) -> Iterator[Mapping[str, Pod]]:
        """Head and one worker of each group, by `head` and the group's name. `extra`: variables that the operator adds."""
        for command in (
            "ip link set lo up",
            f"ip link add name {BRIDGE} type bridge",
            f"ip addr add {GATEWAY}/24 dev {BRIDGE}",
            f"ip link set {BRIDGE} up",
        ):
            subprocess.run(command.split(), check=True)
        spec = self._service["spec"]["rayClusterConfig"]
        try:
            self._start("head", spec["headGroupSpec"], "--head", extra)
            for group in spec["workerGroupSpecs"]:
                self._start(group["groupName"], group, f"--address={self.pods['head'].address}:6379", extra)
            yield self.pods
        finally:
            for pod in self.pods.values():
                pod.process.kill()

    def _environment(self, container: Object) -> dict[str, str]:
        found = {}
        for variable in self.localised(container["env"]):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            found[variable["name"]] = (
                variable["value"] if reference is None else self._secrets[reference["name"], reference["key"]]
            )
        return found

    def _start(self, name: str, group: Object, role: str, extra: Mapping[str, str]) -> None:
        container = group["template"]["spec"]["containers"][0]
        log = self._folder / f"{name}.log"
        temporary = self._folder / f"{name}.tmp"  # Ray's logs stay there
        temporary.mkdir()
        with log.open("wb") as stream:
            process = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", SHELL, "sh", start_command(group, role), temporary],
                env={"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin", **extra}
                | self._environment(container),
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd="/",
            )
        number = len(self.pods) + 2
        address = GATEWAY.rpartition(".")[0] + f".{number}"
        self.pods[name] = Pod(name, address, container, process, log)
        # Its network is there once it has one that is not ours.
        ours = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{process.pid}/ns/net").readlink() == ours:
            pass
        inside = f"nsenter --target {process.pid} --net ip"
        for command in (
            f"ip link add name veth{number} type veth peer name eth0 netns {process.pid}",
            f"ip link set veth{number} master {BRIDGE} up",
            f"{inside} link set lo up",
            f"{inside} addr add {address}/24 dev eth0",
            f"{inside} link set eth0 up",
            f"{inside} route add default via {GATEWAY}",
        ):
            subprocess.run(command.split(), check=True)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()


def start_command(group: Object, role: str) -> str:
    """What KubeRay has a shell run: the group's parameters, and what follows from its limits and labels."""
    limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
    params = {"dashboard-agent-listen-port": "52365", **group["rayStartParams"]}
    if "cpu" in limits:
        params.setdefault("num-cpus", str(limits["cpu"]))
    if labels := group.get("labels"):
        params["labels"] = ",".join(f"{key}={value}" for key, value in labels.items())
    return " ".join(["ray start", role, "--block", *(f"--{key}={value}" for key, value in params.items())])
