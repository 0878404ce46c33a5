"""Deploys the Serve config of a rendering on a Ray of its own, changes the budgets in the file, and prints what it saw.

    python -m tests.helm.serve_rendered FOLDER

FOLDER has `models`; everything else of the run goes there. Ports are those of the chart, so run it in a network namespace.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import yaml

from tests.helm.rendering import VALUE_SETS, objects, overlaid, pod_templates, serve_config, settings_document

CHANGES = {
    "config": {
        "replicas": 1,
        "resources": {"num_cpus": 0.5, "num_gpus": 0},
        "host": {"device": "cpu", "threads": 1},
        "budgets": [{"name": "ram", "resource": "ram", "limit": "20GiB"}],
        "models": {"minilm": None, "alpha": {"floor": 0.5}},
    },
}


def get(port: int, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        body = answer.read()
    return json.loads(body) if body else {}


def until(what: str, condition: Any, seconds: float = 150) -> Any:
    last: object = None
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (OSError, KeyError, ValueError) as error:
            last = error
        time.sleep(1)
    raise TimeoutError(f"{what}: {last}")


def main(folder: Path) -> dict[str, Any]:
    values = overlaid(VALUE_SETS["gpu-pool-autoscaling"], CHANGES)
    del values["config"]["models"]["minilm"]
    rendered = objects(values)

    def local(document: Any) -> Any:
        text = yaml.safe_dump(document)
        for path, here in {"/models": "models", "/etc/trimtab": "", "/var/lib/trimtab": ""}.items():
            text = text.replace(path, str(folder / here).rstrip("/"))
        return yaml.safe_load(text)

    for variable in pod_templates(rendered)["head"]["spec"]["containers"][0]["env"]:
        if variable["name"].startswith("RAY"):
            os.environ[variable["name"]] = variable["value"].replace("/tmp/trimtab", str(folder / "h"))
    (folder / "h").mkdir()
    file = folder / "trimtab.yaml"
    file.write_text(yaml.safe_dump(local(settings_document(rendered))))
    config = local(serve_config(rendered))

    import ray
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    offered = {"trimtab-control": 1}
    ray.init(
        num_cpus=2, resources=offered, include_dashboard=False, object_store_memory=100 << 20, _temp_dir=f"{folder}/r"
    )
    try:
        serve.start(
            http_options=config["http_options"], grpc_options=config["grpc_options"], proxy_location="EveryNode"
        )
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))
        until("ready", lambda: get(8000, "/v2/health/ready") is not None)

        def hosts() -> list[int]:
            return sorted(h["pid"] for h in get(8002, "/admin/v1/status")["hosts"])

        before = until("hosts", lambda: hosts())
        file.write_text(file.read_text().replace("20GiB", "10GiB"))

        def limit() -> Any:
            return get(8002, "/admin/v1/budgets")["budgets"][0]["limit"] == 10 << 30

        until("the changed budget", limit, seconds=60)
        return {"models": sorted(get(8002, "/admin/v1/status")["models"]), "before": before, "after": hosts()}
    finally:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
