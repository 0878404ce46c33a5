"""The statistics extension's JSON. Source: Triton, "Statistics Extension"."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from server.models import Models


def statistics_json(models: Models, model: str, version: str) -> dict[str, Any]:
    """Of one model, or of all for an empty name. Raises UnknownModel."""
    lines = []
    for name, number, s in models.statistics(model, version):
        cache = models.cache_counts(name)
        stages = {
            "success": s.success,
            "fail": s.fail,
            "queue": s.queue,
            "compute_input": s.compute_input,
            "compute_infer": s.compute,
            "compute_output": s.compute_output,
            "cache_hit": cache.hit,
            "cache_miss": cache.miss,
        }
        batches = [
            {
                "batch_size": size,
                "compute_input": asdict(s.batch_inputs[size]),
                "compute_infer": asdict(s.batches[size]),
                "compute_output": asdict(s.batch_outputs[size]),
            }
            for size in sorted(s.batches)
        ]
        lines.append(
            {
                "name": name,
                "version": number,
                "last_inference": s.last_inference,
                "inference_count": s.inference_count,
                "execution_count": s.execution_count,
                "inference_stats": {stage: asdict(duration) for stage, duration in stages.items()},
                "response_stats": {},
                "batch_stats": batches,
                "memory_usage": [],
            }
        )
    return {"model_stats": lines}
