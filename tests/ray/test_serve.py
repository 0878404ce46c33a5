"""The server as its users meet it: Ray Serve, HAProxy, two replicas, the controller, unmodified Triton clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

ALPHA, BETA = 0, 7  # the seeds of the two models


def pin(server: Any, model: str, variant: str) -> None:
    answer = server.post("/admin/v1/pin", {"model": model, "variant": variant})
    assert answer.status_code == 200, answer.text


def unpin(server: Any, model: str) -> None:
    assert server.post("/admin/v1/unpin", {"model": model}).status_code == 200


def test_both_transports_answer_and_name_the_variant(server: Any) -> None:
    report = server.report(server.load(2, "alpha", ALPHA))
    assert report["failed"] == 0, report
    assert report["sent"]["http"] > 20
    assert report["sent"]["grpc"] > 20
    assert set(report["variants"]) <= {"full", "lite"}


def test_swaps_under_load_fail_no_request(server: Any) -> None:
    load = server.load(20, "alpha", ALPHA)
    for variant in ("lite", "full", "lite", "full"):
        pin(server, "alpha", variant)
        server.wait(f"alpha on {variant}", server.settled_on("alpha", variant))
    report = server.report(load)
    unpin(server, "alpha")
    assert report["failed"] == 0, report
    assert set(report["variants"]) == {"full", "lite"}


def test_one_replica_goes_first(server: Any) -> None:
    load = server.load(12, "alpha", ALPHA)
    pin(server, "alpha", "lite")
    seen: list[tuple[str, ...]] = []

    def both() -> bool:
        running = tuple(sorted(h["variants"]["alpha"] for h in server.hosts()))
        if len(running) == 2 and (not seen or seen[-1] != running):  # one that is just taking a plan does not answer
            seen.append(running)
        return running == ("lite", "lite")

    server.wait("both replicas on lite", both)
    unpin(server, "alpha")
    server.wait("alpha back on full", server.settled_on("alpha", "full"))
    report = server.report(load)
    assert report["failed"] == 0, report
    assert seen[0] == ("full", "full")
    assert seen[-2:] == [("full", "lite"), ("lite", "lite")]
    assert "on the others" in server.cli("explain", "alpha").stdout


def test_live_requests_catch_a_variant_that_no_canary_checks(server: Any) -> None:
    canary = server.repository / "beta" / "canary.npz"
    stored = canary.read_bytes()
    canary.unlink()
    try:
        load = server.load(14, "beta", BETA)
        time.sleep(6)
        pin(server, "beta", "broken")
        server.wait("the disagreement", lambda: any("shadow" in h["failed"].get("beta", "") for h in server.hosts()))
        report = server.report(load)
    finally:
        canary.write_bytes(stored)
        unpin(server, "beta")
    assert report["failed"] == 0, report
    assert set(report["variants"]) == {"full"}
    assert "live requests" in server.cli("explain", "beta").stdout


def test_a_failed_canary_rolls_back_and_says_why(server: Any) -> None:
    load = server.load(6, "beta", BETA)
    pin(server, "beta", "broken")
    server.wait("the failure to be reported", lambda: any("beta" in h["failed"] for h in server.hosts()))
    report = server.report(load)
    assert report["failed"] == 0, report
    assert "broken" not in report["variants"]
    assert sum("beta" in h["failed"] for h in server.hosts()) == 1, "the other replica never tried it"
    (put_aside,) = server.status()["quarantined"]
    assert (put_aside["variant"], put_aside["until"]) == ("broken", None)
    unpin(server, "beta")
    explained = server.cli("explain", "beta")
    assert explained.returncode == 0, explained.stderr
    assert "broken" in explained.stdout


def test_a_corrupt_variant_is_refused_and_the_old_one_keeps_answering(server: Any) -> None:
    artefact = server.repository / "beta" / "variants" / "lite" / "model.onnx"
    original = artefact.read_bytes()
    before = server.hosts()[0]["variants"]["beta"]
    assert before == "full"
    damaged = bytearray(original)
    damaged[len(damaged) // 2] ^= 0xFF
    artefact.write_bytes(damaged)
    try:
        load = server.load(6, "beta", BETA)
        pin(server, "beta", "lite")

        def refused() -> bool:
            return any(
                "sha256" in h["failed"].get("beta", "") or "checksum" in h["failed"].get("beta", "")
                for h in server.hosts()
            )

        server.wait("the refusal to be reported", refused)
        report = server.report(load)
    finally:
        artefact.write_bytes(original)
        unpin(server, "beta")
    assert report["failed"] == 0, report
    assert set(report["variants"]) == {"full"}


def test_a_killed_replica_comes_back_on_the_plan(server: Any) -> None:
    pin(server, "alpha", "lite")
    server.wait("alpha on lite", server.settled_on("alpha", "lite"))
    before = {h["pid"] for h in server.hosts()}
    victim = min(before)
    load = server.load(15, "alpha", ALPHA)
    time.sleep(2)
    os.kill(victim, signal.SIGKILL)

    def back() -> bool:
        pids = {h["pid"] for h in server.hosts()}
        return len(pids) == 2 and victim not in pids

    server.wait("a new replica", back, seconds=60)
    server.wait("the plan on the new replica", server.settled_on("alpha", "lite"))
    report = server.report(load)
    unpin(server, "alpha")
    # A request that a killed process had already begun to answer cannot be replayed by a proxy; over HTTP HAProxy
    # retries those that got no answer, over gRPC at most the ones in flight at that moment are lost.
    assert not [e for e in report["errors"] if e.startswith("http")], report
    assert report["failed"] <= 2, report
    assert set(report["variants"]) == {"lite"}


def test_a_killed_controller_comes_back_and_remembers_its_pins(server: Any) -> None:
    pin(server, "alpha", "lite")
    server.wait("alpha on lite", server.settled_on("alpha", "lite"))
    victim = server.status()["control"]["pid"]
    os.kill(victim, signal.SIGKILL)
    server.wait("a new controller", lambda: server.status()["control"]["pid"] != victim, seconds=60)
    assert server.status()["models"]["alpha"]["pinned"]
    unpin(server, "alpha")
    server.wait("the pin to be forgotten", lambda: not server.status()["models"]["alpha"]["pinned"])


def test_another_objective_reaches_running_hosts_and_the_journal_can_be_made_again(server: Any) -> None:
    def told() -> list[Any]:
        return [h["serving"].get("alpha") for h in server.hosts()]

    server.wait("alpha on its best", server.settled_on("alpha", "full"))
    before, written = server.hosts(), server.config.read_text()
    wanted = {"batch": None, "objective": 5.0, "weight": 3.0}
    document = {**yaml.safe_load(written), "models": {"alpha": {"weight": 3.0, "slo": {"latency_seconds": 5.0}}}}
    try:
        server.config.write_text(yaml.safe_dump(document))
        server.wait("another objective", lambda: told() == [wanted, wanted])
        assert server.status()["models"]["alpha"]["slo"] == 5.0
        assert "serve alpha: as many rows as the model allows" in server.cli("explain", "alpha").stdout
    finally:
        server.config.write_text(written)
    server.wait("none again", lambda: told() == [{"batch": None, "objective": None, "weight": 1.0}] * 2)
    assert {h["pid"]: h["variants"] for h in server.hosts()} == {h["pid"]: h["variants"] for h in before}
    journal = server.config.parent / "state" / "journal.jsonl"
    command = [sys.executable, "-m", "server.cli", "rerun", str(journal), "-c", str(server.config)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert ", 0 differ" in again.stdout


def test_status_for_people_and_for_programs(server: Any) -> None:
    people = server.cli("status")
    assert people.returncode == 0, people.stderr
    assert "alpha" in people.stdout
    programs = server.cli("status", "--json")
    assert set(json.loads(programs.stdout)["models"]) == {"alpha", "beta"}


def test_admin_errors_name_what_would_do(server: Any) -> None:
    unknown = server.post("/admin/v1/pin", {"model": "gamma", "variant": "full"})
    assert unknown.status_code == 404
    assert "gamma" in unknown.json()["error"]
    wrong = server.post("/admin/v1/pin", {"model": "alpha", "variant": "huge"})
    assert wrong.status_code == 400
    assert "full" in wrong.json()["error"]
    assert "lite" in wrong.json()["error"]
    assert server.post("/admin/v1/pin", {"model": "alpha"}).status_code == 400
    assert server.get("/admin/v1/pin").status_code == 405
    assert server.get("/admin/v1/nothing").status_code == 404


def test_every_process_exposes_metrics(server: Any) -> None:
    import httpx

    server.report(server.load(2, "alpha", 0))  # latencies are there once requests are
    urls = [h["metrics_url"] for h in server.hosts()] + [server.status()["control"]["metrics_url"]]
    assert len(set(urls)) == 3
    texts = [httpx.get(url, timeout=10, trust_env=False).text for url in urls]
    for host in texts[:2]:
        assert "trimtab_request_duration_seconds_bucket" in host
        assert "trimtab_process_memory_bytes" in host
    assert "trimtab_pressure" in texts[2]
    assert 'role="runtime"' in texts[2]


def test_oversized_bodies_are_refused_on_both_transports(server: Any) -> None:
    import httpx

    big = httpx.post(f"{server.url}/v2/models/alpha/infer", content=b"x" * (5 << 20), timeout=30, trust_env=False)
    assert big.status_code == 413
    script = (
        "import sys, numpy as np, tritonclient.grpc as g\n"
        "c = g.InferenceServerClient(sys.argv[1]); x = np.zeros((4096, 512), np.float32)\n"
        "t = g.InferInput('x', x.shape, 'FP32'); t.set_data_from_numpy(x)\n"
        "try: c.infer('alpha', [t])\n"
        "except g.InferenceServerException as e: print(e.status())\n"
    )
    command = [sys.executable, "-c", script, f"127.0.0.1:{server.grpc_port}"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "RESOURCE_EXHAUSTED" in answer.stdout, answer.stderr


def test_one_replica_swaps_without_a_failure_and_ctrl_c_leaves_no_process(
    affine_repository: Path, tmp_path: Path, free_port: Any, ray_tools: Any
) -> None:
    """With one replica, Serve's fallback proxy answers for the moment after a plan in which it counts as updating."""
    document = {
        "repository": str(affine_repository),
        "server": {"http_port": free_port(), "grpc_port": free_port(), "admin_port": free_port()},
        "host": {"threads": 1},
        "controller": {"tick_seconds": 0.5, "cooldown_seconds": 0.5, "peak_seconds": 1},
    }
    config = tmp_path / "trimtab.yaml"
    config.write_text(yaml.safe_dump(document))
    server = ray_tools.start(config, affine_repository)
    try:
        server.wait("ready", lambda: "ready in" in server.log.read_text(), seconds=90)
        load = server.load(10, "beta", BETA)
        for variant in ("lite", "full", "lite", "full"):
            pin(server, "beta", variant)
            time.sleep(2)
        report = server.report(load)
    finally:
        survivors = ray_tools.stop(server.process)
        names = [p.cmdline() for p in survivors if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        for survivor in survivors:
            survivor.kill()
    assert report["failed"] == 0, report
    assert set(report["variants"]) == {"full", "lite"}
    assert server.process.returncode == 0, server.log.read_text()
    assert not names
