from __future__ import annotations

from pathlib import Path

import pytest

from variants.device import (
    call_threads,
    calls_at_once,
    cgroup_quota,
    cpu_share,
    default_threads,
    exact_products,
    fingerprint,
)


@pytest.mark.parametrize(("text", "quota"), [("200000 100000", 2.0), ("50000 100000", 0.5), ("max 100000", None)])
def test_version_2_quota(tmp_path: Path, text: str, quota: float | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cgroup_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "cpus"), [("150000", 1.5), ("-1", None)])
def test_version_1_quota(tmp_path: Path, quota: str, cpus: float | None) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert cgroup_quota(tmp_path) == cpus


def test_no_quota(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path) is None


def test_int8_products_saturate_on_x86_without_vnni(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert not exact_products({"avx2", "avx512f"})
    assert all(exact_products({"avx2", flag}) for flag in ("avx512_vnni", "avx_vnni", "amx_int8"))
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert exact_products(set())


def test_this_machine() -> None:
    assert fingerprint() == fingerprint()
    assert "openvino" in fingerprint()
    assert default_threads() >= 1
    assert cpu_share() > 0


@pytest.mark.parametrize(
    ("cpus", "threads", "calls"),
    [(1.0, 1, 1), (2.0, 2, 1), (2.0, 1, 2), (16.0, 4, 4), (2.5, 1, 2), (0.5, 1, 1), (2.0, 8, 1)],
)
def test_calls_at_once(monkeypatch: pytest.MonkeyPatch, cpus: float, threads: int, calls: int) -> None:
    monkeypatch.setattr("variants.device.cpu_share", lambda: cpus)
    assert calls_at_once(threads) == calls


@pytest.mark.parametrize(
    ("cpus", "threads", "gpu"), [(0.5, 1, 1), (1.0, 1, 1), (2.0, 1, 2), (3.5, 1, 3), (16.0, 8, 16)]
)
def test_two_calls_of_a_host_share_its_cpus_but_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch, cpus: float, threads: int, gpu: int
) -> None:
    monkeypatch.setattr("variants.device.cpu_share", lambda: cpus)
    assert (call_threads(), call_threads("cuda:0")) == (threads, gpu)
    assert calls_at_once(call_threads()) == (1 if cpus < 2 else 3 if cpus == 3.5 else 2)
