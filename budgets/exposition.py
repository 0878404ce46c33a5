"""Names of trimtab's own metrics, shared by those who write them (deployments, server) and read them (sources).

Prometheus conventions: base units, `_total` on counters.
"""

from __future__ import annotations

REQUESTS = "trimtab_requests_total"  # model, variant, code (ok | error class), protocol
REQUEST_DURATION = "trimtab_request_duration_seconds"  # histogram: model, variant; arrival to answer inside the host
QUEUE_DURATION = "trimtab_queue_duration_seconds"  # histogram: model
QUEUE_DEPTH = "trimtab_queue_depth"  # gauge: model
BATCH_SIZE = "trimtab_batch_size"  # histogram: model; samples per engine call
ENGINE_SECONDS = "trimtab_engine_seconds_total"  # counter: model, variant; time inside engine calls
ENGINE_SAMPLES = "trimtab_engine_samples_total"  # counter: model, variant; samples through engine calls
PADDING = "trimtab_padding_positions_total"  # counter: model; positions (rows times length) that only fill up
POSITIONS = "trimtab_positions_total"  # counter: model; all positions, of models whose calls are padded
RESIDENT = "trimtab_variant_resident_bytes"  # gauge: model, variant; measured
IN_FORCE = "trimtab_variant_in_force"  # gauge: model, variant; 1 for the variant answering now
QUALITY = "trimtab_quality_in_force"  # gauge: model
SWAPS = "trimtab_swaps_total"  # counter: model, direction, outcome
SWAP_DURATION = "trimtab_swap_duration_seconds"  # histogram: model, mode
OBSERVED_GENERATION = "trimtab_observed_generation"  # gauge
PROCESS_MEMORY = "trimtab_process_memory_bytes"  # gauge: pid, role; proportional set size of one of trimtab's processes
PROCESS_GPU_MEMORY = "trimtab_process_gpu_memory_bytes"  # gauge: pid, gpu
NEIGHBOUR_MEMORY = "trimtab_neighbour_memory_bytes"  # gauge: neighbour
NODE_MEMORY_USED = "trimtab_node_memory_used_bytes"  # gauge; the cgroup's where it has a limit
NODE_MEMORY_LIMIT = "trimtab_node_memory_limit_bytes"  # gauge
NODE_CPU = "trimtab_node_cpu_utilization"  # gauge: fraction of all cores
GPU_MEMORY_USED = "trimtab_gpu_memory_used_bytes"  # gauge: gpu
GPU_MEMORY_LIMIT = "trimtab_gpu_memory_limit_bytes"  # gauge: gpu
GPU_UTILIZATION = "trimtab_gpu_utilization"  # gauge: gpu; fraction
PRESSURE = "trimtab_pressure"  # gauge: budget
TRIGGER = "trimtab_trigger_state"  # gauge: budget; 0 calm, 1 scaling, 2 saturated
TICKS = "trimtab_ticks_total"  # counter: outcome
TICK_DURATION = "trimtab_tick_duration_seconds"  # histogram
PLAN_GENERATION = "trimtab_plan_generation"  # gauge
SOURCE_AGE = "trimtab_source_age_seconds"  # gauge: budget

#: Upper bounds (seconds) of the request latency histogram: a factor of 1.25 apart, so that a quantile read from
#: buckets is off by at most a quarter.
LATENCY_BUCKETS: tuple[float, ...] = tuple(round(0.0005 * 1.25**i, 6) for i in range(50))
