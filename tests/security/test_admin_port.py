"""The admin port itself: limits, TLS with rotation, client certificates."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from server.admin import listener as listening
from server.admin.openapi import document as describe
from server.admin.service import AdminService
from server.settings import load_settings
from tests.security.certificates import Authority
from tests.security.conftest import TOKENS
from tests.server.admin_world import Rig, document

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")


@asynccontextmanager
async def service(folder: Path, port: int, **server: Any) -> AsyncIterator[AdminService]:
    config = folder / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document(folder, admin_port=port, **server)))
    settings = load_settings(config)
    rig = Rig(settings)
    async with rig:
        await rig.until(lambda: rig.control.status()["at"] is not None)
        made = AdminService(settings, rig.control)
        await made.start()
        try:
            yield made
        finally:
            await made.close()


async def test_limits(tmp_path: Path, free_port: Callable[[], int]) -> None:
    port = free_port()
    async with service(tmp_path, port, limits={"head_seconds": 1, "header_bytes": "8KiB"}):
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert (await client.get("/admin/v1/budgets")).status_code == 200
            big = await client.get("/admin/v1/budgets", headers={"x-big": "x" * 10_000})
            assert (big.status_code, list(big.json())) == (431, ["error"])
            assert "server" not in big.headers
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /admin/v1/status HTTP/1.1\r\nhost: 127.0.0.1\r\n")
        assert await asyncio.wait_for(reader.read(), 20) == b""  # the head never ended
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(reader.read(), 20) == b""  # nothing was said
        writer.close()


async def test_the_port_is_taken_over_from_a_process_that_ends(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    holder = await asyncio.start_server(lambda r, w: None, "127.0.0.1", port)
    waiting = asyncio.create_task(listening.bind("127.0.0.1", port))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    holder.close()
    await holder.wait_closed()
    (await asyncio.wait_for(waiting, 20)).close()
    monkeypatch.setattr(listening, "BIND_SECONDS", 0.0)
    holder = await asyncio.start_server(lambda r, w: None, "127.0.0.1", port)
    with pytest.raises(OSError, match=f"the admin port 127.0.0.1:{port}: Address already in use"):
        await listening.bind("127.0.0.1", port)
    holder.close()
    await holder.wait_closed()


@needs_openssl
async def test_tls_rotation_and_client_certificates(
    tmp_path: Path, tokens_file: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "ROTATION_SECONDS", 0.05)
    authority = Authority(tmp_path / "ca")
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    first = authority.issue("trimtab", certificate, key)
    tokens = tmp_path / "tokens.yaml"
    callers = [e for e in yaml.safe_load(tokens_file.read_text()) if "certificate" not in e]
    tokens.write_text(yaml.safe_dump([*callers, {"name": "robot", "certificate": "robot", "role": "read"}]))
    port = free_port()
    tls = {"certificate": str(certificate), "key": str(key), "client_ca": str(authority.ca)}

    async def serial() -> int:
        context = ssl.create_default_context(cafile=str(authority.ca))
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        peer = writer.get_extra_info("ssl_object").getpeercert()
        writer.close()
        return int(peer["serialNumber"], 16)

    async def status(name: str | None, token: str | None = None) -> int:
        context = ssl.create_default_context(cafile=str(authority.ca))
        if name is not None:
            pem, secret = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
            authority.issue(name, pem, secret)
            context.load_cert_chain(pem, secret)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            answer = await client.get(f"https://127.0.0.1:{port}/admin/v1/status", headers=headers)
            assert answer.headers["strict-transport-security"]
            return answer.status_code

    async with service(tmp_path, port, auth={"tokens_file": str(tokens)}, tls=tls):
        assert await serial() == first
        assert await status(None) == 401
        assert await status(None, TOKENS["read"]) == 200
        assert await status("robot") == 200
        assert await status("stranger") == 401
        second = authority.issue("trimtab", certificate, key)
        async with asyncio.timeout(20):
            while await serial() != second:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await status("robot") == 200
        replaced = Authority(
            tmp_path / "ca2"
        )  # another authority altogether: its clients are known, the old ones are not
        shutil.copy(replaced.ca, authority.ca)
        stranger = authority
        authority = replaced
        third = authority.issue("trimtab", certificate, key)
        async with asyncio.timeout(20):
            while True:
                try:
                    if await serial() == third:
                        break
                except ssl.SSLError:
                    pass
                await asyncio.sleep(0.05)
        assert await status("robot") == 200
        assert stranger.ca.read_bytes() == replaced.ca.read_bytes()


def test_the_description_is_complete() -> None:
    made = describe("1")
    operations = [o for path in made["paths"].values() for o in path.values()]
    assert len({o["operationId"] for o in operations}) == len(operations) == 17
    for operation in operations:
        assert {"200", "202"} & set(operation["responses"])
        assert operation["summary"]
