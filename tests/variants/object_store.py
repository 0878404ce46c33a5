"""A bucket on loopback that answers ListObjectsV2, HEAD and ranged GET as S3 does, and refuses unsigned requests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit
from xml.sax.saxutils import escape

STAMP = "2026-01-01T00:00:00.000Z"


@contextlib.contextmanager
def bucket(name: str, objects: Mapping[str, bytes], key_id: str) -> Iterator[str]:
    """Serve a bucket to whoever signs with that access key; yields the endpoint's URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return

        def reply(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for header, value in (headers or {}).items():
                self.send_header(header, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
            if f"Credential={key_id}/" not in self.headers.get("authorization", ""):
                self.reply(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            elif parts.path.rstrip("/") == f"/{name}":
                self.reply(200, listing(query.get("prefix", ""), query.get("delimiter", "")).encode())
            else:
                self.object(parts.path.removeprefix(f"/{name}/"))

        def object(self, key: str) -> None:
            body = {quote(k): v for k, v in objects.items()}.get(key)
            if body is None:
                self.reply(404, b"<Error><Code>NoSuchKey</Code></Error>")
                return
            headers = {"etag": '"1"', "last-modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
            asked = self.headers.get("range")
            if not asked:
                self.reply(200, body, headers)
                return
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) if last else len(body) - 1, len(body) - 1)
            headers["content-range"] = f"bytes {start}-{end}/{len(body)}"
            self.reply(206, body[start : end + 1], headers)

    def listing(prefix: str, delimiter: str) -> str:
        contents, prefixes = "", set()
        for key, body in sorted(objects.items()):
            if not key.startswith(prefix):
                continue
            head, found, _ = key.removeprefix(prefix).partition(delimiter) if delimiter else ("", "", "")
            if found:
                prefixes.add(prefix + head + delimiter)
                continue
            contents += (
                f"<Contents><Key>{escape(key)}</Key><LastModified>{STAMP}</LastModified>"
                f"<ETag>&quot;1&quot;</ETag><Size>{len(body)}</Size></Contents>"
            )
        common = "".join(f"<CommonPrefixes><Prefix>{escape(p)}</Prefix></CommonPrefixes>" for p in sorted(prefixes))
        return f"<ListBucketResult><Name>{name}</Name><IsTruncated>false</IsTruncated>{contents}{common}</ListBucketResult>"

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)
