"""A search on every node of a Ray cluster: one worker each, on one study in a folder that all nodes share."""

from __future__ import annotations

from pathlib import Path

from variants.errors import BuildError


def work(address: str, model: Path, minutes: float, seed: int) -> int:
    """Run a worker for `minutes` on each node that is alive; returns how many there were.

    Only trials measured on the publishing machine's kind of device count for its ladder. Raises BuildError when the
    cluster cannot be reached, or a node does not see the folder.
    """
    import ray

    try:
        ray.init(address=address, log_to_driver=False)
    except Exception as error:
        raise BuildError(f"--address {address}: cannot reach a Ray cluster there: {error}") from error
    try:
        nodes = [n["NodeID"] for n in ray.nodes() if n["Alive"]]
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        jobs = [
            ray.remote(_worker)
            .options(scheduling_strategy=strategy(node, soft=False))
            .remote(str(model), minutes, seed + i)
            for i, node in enumerate(nodes)
        ]
        ray.get(jobs)
    except ray.exceptions.RayTaskError as error:
        raise BuildError(f"--address {address}: a worker failed: {error.cause or error}") from error
    finally:
        ray.shutdown()
    return len(nodes)


def _worker(model: str, minutes: float, seed: int) -> None:
    from variants.build.search import Bench

    Bench(Path(model), minutes, seed, lambda step, fraction: None).work()
