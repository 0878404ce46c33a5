"""Runs a rendered RayService on this machine, pod by pod, asks it as clients do, and prints what it saw as JSON.

    python -m tests.helm.serve_rendered FOLDER

FOLDER, outside /tmp, has `models`; everything else of the run goes there. See `tests/helm/pods.py` for where to run it.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import yaml

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from tests.conftest import WIDTH
from tests.helm.pods import GATEWAY, Cluster, Pod
from tests.helm.rendering import ROOT, VALUE_SETS, objects, overlaid, settings_document
from tests.observability.panels import QUERIES
from tests.security.certificates import Authority
from tests.security.conftest import TOKENS, entries

CHANGES = {
    "config": {"host": {"threads": 1}, "models": {"minilm": None, "alpha": {"floor": 0.5}}},
    "limits": {"headSeconds": 2},
    "prometheus": {"url": f"http://{GATEWAY}:9090", "ca": {"secretName": ""}},
}
RAY_TOKEN = "0123456789abcdef" * 4
SECRET = "a-secret-of-proxies-and-hosts"


class Client:
    """Someone outside of the pods, who trusts the authority; with a client certificate or without."""

    def __init__(self, authority: Authority, name: str | None = None) -> None:
        self.context = ssl.create_default_context(cafile=str(authority.ca))
        self.context.check_hostname = False
        self._pair: tuple[bytes | None, bytes | None] = (None, None)
        self._ca = authority.ca.read_bytes()
        if name is not None:
            certificate, key = authority.folder / f"{name}.pem", authority.folder / f"{name}.key"
            authority.issue(name, certificate, key)
            self.context.load_cert_chain(certificate, key)
            self._pair = (key.read_bytes(), certificate.read_bytes())

    def get(self, url: str, token: str | None = None, body: Any = None) -> tuple[int, Any]:
        """Status and JSON; with a body it is a POST. Raises OSError when there is no answer."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        context = self.context if url.startswith("https") else None
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers=headers | {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60, context=context) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, None

    def rpc(self, address: str, token: str | None = None) -> str:
        """How gRPC calls for a model's metadata and for an inference end."""
        request = pb.ModelInferRequest(model_name="alpha", raw_input_contents=[bytes(4 * WIDTH)])
        request.inputs.add(name="x", datatype="FP32", shape=[1, WIDTH])
        credentials = grpc.ssl_channel_credentials(self._ca, *self._pair)
        options = [("grpc.ssl_target_name_override", "localhost")]
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        with grpc.secure_channel(f"{address}:8001", credentials, options=options) as channel:
            try:
                stub = pb_grpc.GRPCInferenceServiceStub(channel)
                stub.ModelMetadata(pb.ModelMetadataRequest(name="alpha"), metadata=metadata, timeout=20)
                stub.ModelInfer(request, metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                return str(error.code().name)
        return "OK"

    def slow(self, address: str) -> tuple[str, float]:
        """What a request whose head never ends is answered, and after how many seconds."""
        started = time.monotonic()
        with (
            socket.create_connection((address, 8000), timeout=60) as raw,
            self.context.wrap_socket(raw, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n")
            answer = secure.recv(100)
        return answer.decode("latin-1").partition("\r\n")[0], time.monotonic() - started


def until(what: str, condition: Any, seconds: float = 200) -> Any:
    last: object = None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, KeyError, ValueError, TypeError) as error:
            last = error
        time.sleep(1)
    raise TimeoutError(f"{what}: {last}")


def submit(head: Pod, config: Any) -> None:
    """Hand the Serve config over as KubeRay does: through the dashboard."""
    request = urllib.request.Request(
        f"http://{head.address}:8265/api/serve/applications/",
        data=json.dumps(config).encode(),
        headers={"content-type": "application/json", "authorization": f"Bearer {RAY_TOKEN}"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=60).close()


def watch(folder: Path, pods: Mapping[str, Pod]) -> subprocess.Popen[bytes]:
    """A Prometheus server that scrapes the pods as the PodMonitor has it done."""
    targets = [
        f"{pod.address}:{port['containerPort']}"
        for pod in pods.values()
        for port in pod.container["ports"]
        if port["name"].startswith("trimtab-")
    ]
    job = {
        "job_name": "ml/demo-trimtab",
        "static_configs": [{"targets": targets}],
    }
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder}/tsdb"]
    return subprocess.Popen([*command, f"--web.listen-address={GATEWAY}:9090", "--log.level=error"])


def told(client: Client, head: Pod, what: str) -> Any:
    status, answer = client.get(f"https://{head.address}:8002/admin/v1/{what}", TOKENS["operate"])
    if status != 200:
        raise ValueError(f"{what}: {status}")
    return answer


def main(folder: Path) -> dict[str, Any]:
    values = overlaid(VALUE_SETS["secured-pool"], CHANGES)
    del values["config"]["models"]["minilm"]
    rendered = objects(values)
    authority = Authority(folder / "ca")
    secret = folder / "secret"
    for name in ("secret/trimtab-tls", "secret/trimtab-auth", "secret/trimtab-prometheus", "etc", "var"):
        (folder / name).mkdir(parents=True)
    authority.issue("trimtab", secret / "trimtab-tls/tls.crt", secret / "trimtab-tls/tls.key")
    (secret / "trimtab-tls/client-ca.crt").write_bytes(authority.ca.read_bytes())
    (secret / "trimtab-auth/tokens.yaml").write_text(yaml.safe_dump(entries()))
    (secret / "trimtab-prometheus/token").write_text("token-of-prometheus")
    source = folder / "src"  # pods have a /tmp of their own, and the sources may be in this one's
    source.mkdir()
    subprocess.run(["mount", "--bind", str(ROOT), str(source)], check=True)
    cluster = Cluster(
        rendered,
        folder,
        {
            "/models": folder / "models",
            "/etc/trimtab": folder / "etc",
            "/var/lib/trimtab": folder / "var",
            "/run/secrets": secret,
            "/opt/trimtab/bin": Path(sys.executable).parent,
        },
        {("trimtab-proxy", "proxy-secret"): SECRET},
    )
    file = folder / "etc/trimtab.yaml"
    file.write_text(yaml.safe_dump(cluster.localised(settings_document(rendered))))
    extra = {"PYTHONPATH": str(source), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RAY_TOKEN}
    with cluster.running(extra) as pods:
        prometheus = watch(folder, pods)
        try:
            return asked(cluster, pods, file, authority)
        except TimeoutError:
            for pod in pods.values():
                print(f"== {pod.name}\n{pod.log.read_text()[-2000:]}", file=sys.stderr)
            raise
        finally:
            prometheus.kill()


def asked(cluster: Cluster, pods: Mapping[str, Pod], file: Path, authority: Authority) -> dict[str, Any]:
    head, workers = pods["head"], [pods["large"], pods["small"]]
    stranger, robot = Client(authority), Client(authority, "robot")
    until("the head", lambda: head.probe("livenessProbe") == 200)
    until("the dashboard", lambda: stranger.get(f"http://{head.address}:8265/api/version", RAY_TOKEN)[0] == 200)
    submit(head, cluster.serve_config)
    for worker in workers:
        until(f"{worker.name} to be ready", lambda worker=worker: worker.probe("readinessProbe") == 200)

    def hosts() -> dict[str, int]:
        return {h["group"]: h["pid"] for h in told(robot, head, "status")["hosts"]}

    before = until("two hosts", lambda: len(hosts()) == 2 and hosts())
    seen = {
        "models": sorted(told(robot, head, "status")["models"]),
        "budgets": {
            group: sorted(b["name"] for b in one["budgets"])
            for group, one in told(robot, head, "status")["groups"].items()
        },
        "http": {}, "grpc": {}, "slow": {},
    }  # fmt: skip
    for worker in workers:
        url = f"https://{worker.address}:8000/v2/models/alpha"
        # Dealt to both hosts by each proxy: every answer counts.
        seen["http"][worker.name] = {
            "nobody": sorted({stranger.get(url)[0] for _ in range(6)}),
            "token": sorted({stranger.get(url, TOKENS["infer"])[0] for _ in range(6)}),
            "certificate": sorted({robot.get(url)[0] for _ in range(6)}),
        }
        seen["grpc"][worker.name] = {
            "nobody": sorted({stranger.rpc(worker.address) for _ in range(6)}),
            "token": sorted({stranger.rpc(worker.address, TOKENS["infer"]) for _ in range(6)}),
            "certificate": sorted({robot.rpc(worker.address) for _ in range(6)}),
        }
        seen["slow"][worker.name] = stranger.slow(worker.address)
        try:
            seen["plain"] = stranger.get(url.replace("https", "http"))[0]
        except OSError:
            seen["plain"] = "refused"
    seen["probes"] = sorted({p.probe(w) for p in pods.values() for w in ("startupProbe", "livenessProbe")})
    seen["repository"] = repository(robot, workers)

    def runs() -> dict[str, str]:
        found = told(robot, head, "status")["hosts"]
        return {h["group"]: h["variants"]["alpha"] for h in found if not h["swapping"]}

    seen["first"] = until("both to run the best", lambda: len(runs()) == 2 and runs())
    file.write_text(file.read_text().replace("6GiB", "100MiB"))  # less than any host takes
    until("the small group alone to degrade", lambda: runs() == {"default": "full", "small": "lite"}, seconds=120)
    return {**seen, "then": runs(), "before": before, "after": hosts(), "dashboard": dashboard()}


def repository(client: Client, workers: list[Pod]) -> list[list[int]]:
    """Whether beta is ready, asked of every worker's proxy: before, unloaded through one of them, loaded through the other."""

    def ready() -> list[int]:
        urls = [f"https://{worker.address}:8000/v2/models/beta/ready" for worker in workers for _ in range(4)]
        return sorted({client.get(url)[0] for url in urls})

    def order(worker: Pod, action: str) -> list[int]:
        url = f"https://{worker.address}:8000/v2/repository/models/beta/{action}"
        status, _ = client.get(url, TOKENS["operate"], {})
        return [status, *ready()]

    return [ready(), order(workers[0], "unload"), order(workers[1], "load")]


def dashboard() -> dict[str, Any]:
    """What the dashboards' variable for host groups offers, and of which groups the trigger states are with each choice."""
    queries = {q.where: q for q in QUERIES}

    def ask(expr: str) -> list[dict[str, str]]:
        with urllib.request.urlopen(
            f"http://{GATEWAY}:9090/api/v1/query?{urllib.parse.urlencode({'query': expr})}", timeout=20
        ) as answer:
            return [series["metric"] for series in json.loads(answer.read())["data"]["result"]]

    offered = {m["text"]: m["value"] for m in ask(queries["budgets/variable group"].filled())}
    triggers = queries["budgets/Triggers/A"]
    return {
        text: sorted(f"{m['budget']} {m.get('host_group', '')}" for m in ask(triggers.filled(group=value)))
        for text, value in {**offered, "All": ".*"}.items()
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
