"""What a process knows of its node of the Ray cluster."""

from __future__ import annotations

import ray
import ray.util

from budgets.config import DEFAULT_GROUP

#: The label of a node that names the group of its hosts: `ray start --labels trimtab-group=NAME`.
LABEL = "trimtab-group"


def node_group() -> str:
    """The group of this node's hosts."""
    return str(ray.get_runtime_context().get_node_labels().get(LABEL) or DEFAULT_GROUP)


def node_id() -> str:
    """The cluster's id of this node."""
    return str(ray.get_runtime_context().get_node_id())


def advertised(host: str) -> str | None:
    """The address under which other nodes reach what listens on `host`; None: under that name."""
    return str(ray.util.get_node_ip_address()) if host in ("0.0.0.0", "::") else None
