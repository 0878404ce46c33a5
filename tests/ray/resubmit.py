"""Submits the Serve configuration of a running server anew, as `serve deploy` or KubeRay would: its first plan, no orders.

    python resubmit.py CONFIG

In the environment of the server's process.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from deployments import lean
from deployments.api import Assignment
from deployments.runtime_env import RUN_FOLDER
from server.cluster import serve_config
from server.leave import ADDRESS
from server.settings import load_settings


def main() -> None:
    lean.import_serve()
    import ray
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    address = (Path(os.environ[RUN_FOLDER]) / ADDRESS).read_text(encoding="utf-8")
    ray.init(address, namespace="serve", log_to_driver=False, logging_level="ERROR")
    config = serve_config(load_settings(Path(sys.argv[1])), Assignment(1, {}))
    _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))


if __name__ == "__main__":
    main()
