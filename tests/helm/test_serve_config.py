"""The rendered RayService runs: pods as namespaces of this machine, a real Ray in each, deployed to as KubeRay does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helm.rendering import ROOT

MISSING = [tool for tool in ("ip", "unshare", "nsenter", "openssl", "prometheus") if shutil.which(tool) is None]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    bool(MISSING) or os.geteuid() != 0, reason="needs ip, unshare, nsenter, openssl, prometheus and root"
)
def test_a_rendered_pool_serves_with_tls_in_two_host_groups_and_follows_the_budgets(affine_repository: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tt-", dir="/var/tmp"))
    try:
        shutil.copytree(affine_repository, folder / "models")
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
        command += [sys.executable, "-m", "tests.helm.serve_rendered", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=800, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr[-8000:]
        seen = json.loads(done.stdout.splitlines()[-1])
        assert seen["models"] == ["alpha", "beta"]
        assert seen["budgets"] == {"default": ["node"], "small": ["node", "small-ram"]}
        assert set(seen["before"]) == {"default", "small"}
        assert seen["first"] == {"default": "full", "small": "full"}
        assert seen["then"] == {"default": "full", "small": "lite"}
        assert seen["before"] == seen["after"]  # no host was replaced
        for worker in ("large", "small"):
            assert seen["http"][worker] == {"nobody": [401], "token": [200], "certificate": [200]}
            assert seen["grpc"][worker] == {"nobody": ["UNAUTHENTICATED"], "token": ["OK"], "certificate": ["OK"]}
            answer, seconds = seen["slow"][worker]
            assert answer.startswith("HTTP/1.1 408")
            assert seconds >= 2
        assert seen["plain"] == "refused"
        assert seen["probes"] == [200]
        assert seen["repository"] == [[200], [200, 503], [200, 200]]
        assert seen["dashboard"] == {
            "default": ["node "],
            "small": ["node small", "small-ram small"],
            "All": ["node ", "node small", "small-ram small"],
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
