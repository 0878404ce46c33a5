from __future__ import annotations

import socket

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from deployments.endpoint import serve_metrics


def registry(value: int) -> CollectorRegistry:
    made = CollectorRegistry()
    Counter("things", "Things.", registry=made).inc(value)
    return made


def test_two_processes_share_a_base_port() -> None:
    first = serve_metrics(registry(1), host="127.0.0.1", port=0)
    port = int(first.url.split(":")[2].split("/")[0])
    second = serve_metrics(registry(2), host="127.0.0.1", port=port)
    try:
        assert "things_total 1.0" in httpx.get(first.url, trust_env=False).text
        assert "things_total 2.0" in httpx.get(second.url, trust_env=False).text
        assert first.url != second.url
    finally:
        first.close()
        second.close()


def test_other_errors_are_not_swallowed() -> None:
    with pytest.raises(OSError), socket.socket():
        serve_metrics(registry(1), host="203.0.113.1", port=0)
