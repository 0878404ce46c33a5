"""The rendered Serve config runs: on a real Ray, as KubeRay would deploy it."""

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

MISSING = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]


@pytest.mark.slow
@pytest.mark.timeout(700)
@pytest.mark.skipif(bool(MISSING) or os.geteuid() != 0, reason="needs ip, unshare and root: a network of its own")
def test_the_application_runs_from_the_rendered_config_and_follows_the_budgets(affine_repository: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="tt-", dir="/tmp"))  # short: Ray's sockets lie below it
    try:
        shutil.copytree(affine_repository, folder / "models")
        command = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
        command += [sys.executable, "-m", "tests.helm.serve_rendered", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=600, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr[-4000:]
        seen = json.loads(done.stdout.splitlines()[-1])
        assert seen["models"] == ["alpha", "beta"]
        assert seen["before"] == seen["after"]  # no host was replaced
    finally:
        shutil.rmtree(folder, ignore_errors=True)
