"""`make conformance`: trimtab beside a real Triton, and under the clients of KServe and MLServer.

Usage: python tests/conformance/run.py [--record]. Environments of their own, with pinned versions, are made once below
`.cache/conformance`. The oracle's answers are compared with `triton.json` (`--record`: written there), trimtab's with the
oracle's; docs/conformance.md is written. The exit status says whether everything agreed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".cache" / "conformance"
SERVER = ROOT / "tests" / "server" / "protocol_server.py"
ENVIRONMENTS = {
    "triton": ["nvidia-pytriton==0.7.0", "ml-dtypes==0.5.4"],
    "clients": ["tritonclient[http,grpc]==2.73.0", "ml-dtypes==0.5.4", "pyyaml==6.0.4", "httpx==0.28.1"],
    "kserve": ["kserve==0.21.0"],
    "mlserver": ["mlserver==1.7.1", "httpx==0.28.1"],
}
SECONDS = 300.0
TRIES = 6


def python(name: str) -> str:
    """That environment's Python, made where it is missing."""
    return str(load(HERE / "environments.py").python(CACHE / name, ENVIRONMENTS[name]))


def load(path: Path) -> Any:
    """A module by its file: the tests are not a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def signatures() -> dict[str, Any]:
    """The test server's models, as `oracle.repository` wants them."""
    made = {}
    for name, entry in load(SERVER).catalog().entries.items():
        model = entry.model
        skip = 1 if model.batchable else 0
        tensors = {
            kind: {spec.name: (spec.datatype, spec.shape[skip:]) for spec in specs}
            for kind, specs in (("inputs", model.inputs), ("outputs", model.outputs))
        }
        labels = {spec.name: spec.labels for spec in model.outputs if spec.labels}
        batch = model.max_batch if model.batchable else 0
        made[name] = {"max_batch": batch, **tensors, "labels": labels, "decoupled": model.streams}
    return made


def ports() -> tuple[int, int]:
    with socket.socket() as a, socket.socket() as b:
        a.bind(("127.0.0.1", 0))
        b.bind(("127.0.0.1", 0))
        return a.getsockname()[1], b.getsockname()[1]


@contextlib.contextmanager
def serving(command: list[str], http: int, grpc: int) -> Iterator[tuple[int, int]]:
    """A server that prints `ready`, while the context lasts."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline().strip()
        if said != "ready":
            raise RuntimeError(f"{' '.join(command)}: {said or 'it ended'}")
        yield http, grpc
    finally:
        process.stdin.close()  # the oracle ends with its input
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20 if "oracle.py" in " ".join(command) else 0)
        process.terminate()
        process.wait(30)
        process.stdout.close()


def ask(interpreter: str, script: str, http: int, grpc: int) -> dict[str, Any]:
    """What a script of this folder prints."""
    command = [interpreter, str(HERE / script), str(http), str(grpc)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def ask_triton() -> dict[str, Any]:
    """What the real Triton answers. It now and then crashes on a stream, and is then asked again from the start."""
    oracle = load(HERE / "oracle.py")
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory(prefix="trimtab-oracle-") as temporary:
            models = Path(temporary) / "models"
            oracle.repository(models, signatures())
            http, grpc = ports()
            command = [python("triton"), str(HERE / "oracle.py"), str(models), str(http), str(grpc)]
            with serving(command, http, grpc):
                theirs = ask(python("clients"), "driver.py", http, grpc)
        if "ConnectionRefused" not in json.dumps(theirs):
            return theirs
        print("the oracle died while it was asked", flush=True)
    raise RuntimeError(f"the oracle died {TRIES} times")


def main() -> int:
    """0 when all is as recorded and explained."""
    comparing = load(HERE / "comparing.py")
    record = "--record" in sys.argv
    agreed = True
    theirs = ask_triton()
    recording = HERE / "triton.json"
    if record:
        recording.write_text(json.dumps(theirs, indent=0, sort_keys=True, ensure_ascii=True) + "\n", encoding="utf-8")
    for change in comparing.differences(comparing.recorded(), theirs):
        print(f"the oracle no longer answers as recorded: {change}")
        agreed = False
    http, grpc = ports()
    with serving([sys.executable, str(SERVER), str(http), str(grpc)], http, grpc):
        ours = ask(python("clients"), "driver.py", http, grpc)
        checks = ask(python("kserve"), "kserve_client.py", http, grpc)
        checks |= ask(python("mlserver"), "mlserver_types.py", http, grpc)
    found, known = comparing.differences(theirs, ours), comparing.reasons()
    left, stale = comparing.unexplained(found, known)
    for difference in left:
        print(f"unexplained: {difference}")
    for reason in stale:
        print(f"explains nothing: {reason.title}")
    for name, problem in checks.items():
        print(f"{name}: {problem or 'ok'}")
    version = theirs["http: server metadata"]["json"]["version"]
    (ROOT / "docs" / "conformance.md").write_text(comparing.page(found, known, len(theirs), version), encoding="utf-8")
    print(f"{len(theirs)} cases, {len(found)} fields differ, {len(left)} without a reason")
    return 0 if agreed and not left and not stale and not any(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
