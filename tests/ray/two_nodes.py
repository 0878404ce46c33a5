"""`trimtab serve` on a Ray cluster of two nodes on this machine: the head, and one labelled `trimtab-group=small`.

Usage: two_nodes.py CONFIG. Each node has room for one host. Lines on stdin: `add` and `remove` the second node (it is killed
at once, as a machine that is lost); each is answered with a line on stdout. Ctrl-C ends it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from server.cluster import OBJECT_STORE_BYTES, Cluster
from server.settings import load_settings
from server.start import starting_assignment


class TwoNodes(Cluster):
    """The embedded cluster with another Ray under it. Ray reads its settings when it is imported: not before they are set."""

    nodes: Any

    def _start_ray(self) -> None:
        import ray
        from ray.cluster_utils import Cluster as Nodes

        self.nodes = Nodes(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False},
        )
        ray.init(address=self.nodes.address, log_to_driver=False)

    def add(self) -> Any:
        from deployments.node import LABEL

        return self.nodes.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, labels={LABEL: "small"})


def main() -> None:
    os.environ.pop("RAY_ADDRESS", None)
    settings = load_settings(Path(sys.argv[1]))
    assignment, _ = starting_assignment(settings)
    with TwoNodes(settings, assignment) as cluster:
        cluster.wait_ready()
        print("ready", flush=True)
        second = None
        try:
            for line in sys.stdin:
                if line.strip() == "add":
                    second = cluster.add()
                elif line.strip() == "remove":
                    cluster.nodes.remove_node(second, allow_graceful=False)
                print(f"done: {line.strip()}", flush=True)
        except KeyboardInterrupt:
            pass


main()
