"""A server with TLS and tokens, as an operator starts it: Ray, HAProxy and all."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
import yaml

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from tests.security.certificates import Authority
from tests.security.conftest import TOKENS, entries


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_a_secured_server(
    affine_repository: Path, tmp_path: Path, free_port: Callable[[], int], ray_tools: Any
) -> None:
    authority = Authority(tmp_path / "ca")
    authority.issue("trimtab", tmp_path / "tls.crt", tmp_path / "tls.key")
    authority.issue("robot", tmp_path / "robot.crt", tmp_path / "robot.key")
    (tmp_path / "tokens.yaml").write_text(yaml.safe_dump(entries()))
    document = {
        "repository": str(affine_repository),
        "resources": {"num_cpus": 0.5},
        "server": {
            "http_port": free_port(),
            "grpc_port": free_port(),
            "admin_port": free_port(),
            "auth": {"tokens_file": "tokens.yaml"},
            "tls": {"certificate": "tls.crt", "key": "tls.key", "client_ca": "ca/ca.pem"},
        },
        "host": {"threads": 1},
    }
    config = tmp_path / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document))
    server = ray_tools.start(config, affine_repository)
    try:
        server.wait("ready", lambda: "ready in" in server.log.read_text(), seconds=170)
        plain = ssl.create_default_context(cafile=str(authority.ca))
        known = ssl.create_default_context(cafile=str(authority.ca))
        known.load_cert_chain(tmp_path / "robot.crt", tmp_path / "robot.key")
        url = f"https://127.0.0.1:{server.http_port}/v2/models/alpha"
        bearer = {"authorization": f"Bearer {TOKENS['infer']}"}
        assert httpx.get(url, verify=plain, trust_env=False).status_code == 401
        assert httpx.get(url, verify=plain, headers=bearer, trust_env=False).status_code == 200
        assert httpx.get(url, verify=known, trust_env=False).status_code == 200  # through HAProxy, believed by the host

        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        with grpc.secure_channel(f"127.0.0.1:{server.grpc_port}", credentials) as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            request = pb.ModelMetadataRequest(name="alpha")
            with pytest.raises(grpc.RpcError) as raised:
                stub.ModelMetadata(request, timeout=20)
            assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert stub.ModelMetadata(request, metadata=tuple(bearer.items()), timeout=20).name == "alpha"

        command = [sys.executable, "-m", "server.cli", "status", "--json", "--ca-file", str(authority.ca)]
        command += ["--url", f"https://127.0.0.1:{server.admin_port}"]
        for token, code in ((TOKENS["read"], 0), (TOKENS["infer"], 1), ("", 1)):
            environment = {**os.environ, "TRIMTAB_TOKEN": token}
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
            assert done.returncode == code, done.stderr

        family = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
        listening = {
            (c.laddr.ip, c.laddr.port, p.name())
            for p in family
            for c in p.net_connections(kind="tcp")
            if c.status == psutil.CONN_LISTEN
        }
        ours = {("127.0.0.1", port) for port in (server.http_port, server.grpc_port, server.admin_port)}
        assert ours <= {(ip, port) for ip, port, _ in listening}
        # The replicas' own ports, behind HAProxy. Ray's are its own, on ports that the system chooses.
        bounds = next(e for p in family if "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT" in (e := p.environ()))

        def behind(kind: str) -> set[str]:
            least, most = (int(bounds[f"RAY_SERVE_DIRECT_INGRESS_{end}_{kind}_PORT"]) for end in ("MIN", "MAX"))
            return {ip for ip, port, name in listening if least <= port <= most and "host" in name}

        assert behind("HTTP") == {"127.0.0.1"}, sorted(listening)
        assert "::ffff:127.0.0.1" in behind("GRPC"), sorted(listening)
        assert "haproxy" in {name for ip, port, name in listening if port == server.http_port}

        log = server.log.read_text() + server.config.read_text()
        assert not [token for token in TOKENS.values() if token in log]
    finally:
        assert ray_tools.stop(server.process) == []
