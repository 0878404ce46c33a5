"""What stands in HAProxy's place: TLS on both ports with rotation, client certificates, slow clients, who listens where."""

from __future__ import annotations

import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from protos import open_inference_pb2 as pb
from protos import open_inference_pb2_grpc as pb_grpc
from server.haproxy import MARK, hardened
from tests.security.certificates import Authority
from tests.security.conftest import TOKENS, Serving
from tests.security.proxied import haproxy, render

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@dataclass
class Front:
    """A running HAProxy with TLS, and what its certificates came from."""

    http: int
    grpc: int
    stats: int
    authority: Authority
    certificate: Path
    key: Path
    serial: int
    pid: int
    config: Path

    def context(self, client: str | None = None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(self.authority.ca))
        if client is not None:
            certificate, key = self.authority.folder / f"{client}.pem", self.authority.folder / f"{client}.key"
            self.authority.issue(client, certificate, key)
            made.load_cert_chain(certificate, key)
        return made

    def served_serial(self, port: int) -> int:
        """The serial number of the certificate that a new connection is shown."""
        context = self.context()
        if port == self.grpc:
            context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as secure,
        ):
            certificate = secure.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)

    def infer_grpc(self, *metadata: tuple[str, str], client: str | None = None) -> grpc.StatusCode:
        pair: tuple[bytes | None, bytes | None] = (None, None)
        if client is not None:
            self.context(client)
            pair = tuple((self.authority.folder / f"{client}.{end}").read_bytes() for end in ("key", "pem"))  # type: ignore[assignment]
        credentials = grpc.ssl_channel_credentials(self.authority.ca.read_bytes(), *pair)
        with grpc.secure_channel(f"127.0.0.1:{self.grpc}", credentials) as channel:
            stub = pb_grpc.GRPCInferenceServiceStub(channel)
            try:
                stub.ModelMetadata(pb.ModelMetadataRequest(name="pair"), metadata=metadata, timeout=20)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def front(serving: Serving, free_port: Callable[[], int]) -> Iterator[Front]:
    folder = Path(tempfile.mkdtemp(prefix="trimtab-test-", dir="/tmp"))
    http, grpc_port, stats, metrics = (free_port() for _ in range(4))
    authority = Authority(folder / "ca")
    certificate, key = folder / "tls.crt", folder / "tls.key"
    serial = authority.issue("trimtab", certificate, key)
    config = render(
        folder, http=http, grpc=grpc_port, behind=(serving.http, serving.grpc), stats=stats, metrics=metrics
    )
    environment = {
        "TRIMTAB_TLS_CERTIFICATE": str(certificate),
        "TRIMTAB_TLS_KEY": str(key),
        "TRIMTAB_TLS_CLIENT_CA": str(authority.ca),
        "TRIMTAB_PROXY_SECRET": "proxy-secret-of-tests",
        "TRIMTAB_HEAD_SECONDS": "1",
    }
    try:
        with haproxy(config, environment, http) as process:
            yield Front(http, grpc_port, stats, authority, certificate, key, serial, process.pid, config)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_tls_on_both_ports(front: Front) -> None:
    bearer = f"Bearer {TOKENS['infer']}"
    url = f"https://127.0.0.1:{front.http}/v2/models/pair"
    answer = httpx.get(url, headers={"authorization": bearer}, verify=front.context(), trust_env=False)
    assert answer.status_code == 200
    assert httpx.get(url, verify=front.context(), trust_env=False).status_code == 401
    assert front.infer_grpc(("authorization", bearer)) is grpc.StatusCode.OK
    assert front.infer_grpc() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(httpx.HTTPError):
        httpx.get(url.replace("https", "http"), trust_env=False).raise_for_status()
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, trust_env=False)  # not signed by an authority that the system knows


def test_a_client_certificate_says_who_calls(front: Front) -> None:
    url = f"https://127.0.0.1:{front.http}/v2/models/pair"
    assert httpx.get(url, verify=front.context("robot"), trust_env=False).status_code == 200
    assert httpx.get(url, verify=front.context("stranger"), trust_env=False).status_code == 401
    assert front.infer_grpc(client="robot") is grpc.StatusCode.OK
    assert front.infer_grpc(client="stranger") is grpc.StatusCode.UNAUTHENTICATED


def test_the_proxys_word_cannot_be_forged_through_it(front: Front) -> None:
    forged = {"x-trimtab-client-certificate": "proxy-secret-of-tests robot"}
    url = f"https://127.0.0.1:{front.http}/v2/models/pair"
    assert httpx.get(url, headers=forged, verify=front.context(), trust_env=False).status_code == 401
    assert front.infer_grpc(*forged.items()) is grpc.StatusCode.UNAUTHENTICATED


def test_a_certificate_is_rotated_without_a_restart(front: Front) -> None:
    assert front.served_serial(front.http) == front.serial
    wanted = front.authority.issue("trimtab", front.certificate, front.key)
    deadline = time.monotonic() + 30
    while {front.served_serial(front.http), front.served_serial(front.grpc)} != {wanted}:
        assert time.monotonic() < deadline, "the new certificate is not served"
        time.sleep(0.2)
    assert psutil.pid_exists(front.pid)
    # half a rotation: a certificate whose key has not come yet
    key = front.key.read_bytes()
    after = front.authority.issue("trimtab", front.certificate, front.key)
    front.key.with_suffix(".later").write_bytes(front.key.read_bytes())
    front.key.write_bytes(key)
    time.sleep(2.5)
    assert front.served_serial(front.http) in (wanted, after)
    front.key.with_suffix(".later").replace(front.key)
    deadline = time.monotonic() + 30
    while front.served_serial(front.grpc) != after:
        assert time.monotonic() < deadline, "the certificate is not served once its key is there"
        time.sleep(0.2)


def test_a_client_that_never_ends_its_headers_is_let_go(front: Front) -> None:
    with (
        socket.create_connection(("127.0.0.1", front.http), timeout=10) as raw,
        front.context().wrap_socket(raw, server_hostname="127.0.0.1") as secure,
    ):
        secure.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n")
        answer = secure.recv(1000)  # the socket's timeout is past the limit of 1 s
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")


def test_statistics_listen_on_loopback_and_the_admin_socket_is_private(front: Front) -> None:
    listening = {c.laddr.port: c.laddr.ip for c in psutil.Process(front.pid).net_connections() if c.status == "LISTEN"}
    assert set(listening.values()) == {"127.0.0.1"}
    assert front.stats in listening
    text = front.config.read_text()
    assert text.startswith(MARK)
    assert "mode 600" in text
    assert "mode 666" not in text
    assert front.config.with_name("server.pem").stat().st_mode & 0o077 == 0


SERVES = """global
    stats socket /x/admin.sock mode 666 level admin
defaults
    mode http
frontend prometheus
    bind :9101
frontend http_frontend
    bind *:8000
frontend grpc_frontend
    bind *:8001 proto h2
listen stats
  bind *:8404
"""


def test_without_tls_only_what_is_missing_is_added() -> None:
    text = hardened(SERVES, {}, None)
    assert " ssl " not in text
    assert "bind 127.0.0.1:9101" in text
    assert "bind 127.0.0.1:8404" in text
    assert "timeout http-request 10s" in text
    assert text.count("http-request del-header x-trimtab-client-certificate") == 2
    assert hardened(text, {}, None) == text


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        (SERVES.replace("http_frontend", "web"), {}, "a port that is not known in section 'frontend web'"),
        ("global\ndefaults\n", {}, "no section `frontend http_frontend`"),
        (SERVES, {"TRIMTAB_TLS_CLIENT_CA": "/ca", "TRIMTAB_PROXY_SECRET": "short"}, "TRIMTAB_PROXY_SECRET must be"),
    ],
)
def test_better_no_proxy_than_an_open_one(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        hardened(text, environment, "/bundle.pem")
