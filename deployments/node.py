"""What a process knows of its node of the Ray cluster."""

from __future__ import annotations

import ipaddress

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
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return None
    return str(ray.util.get_node_ip_address()) if everywhere else None
