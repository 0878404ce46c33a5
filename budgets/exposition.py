"""Names of trimtab's own metrics, shared by those who write them (deployments, server) and read them (sources).

Prometheus conventions: base units, `_total` on counters.
"""

from __future__ import annotations

GROUP = "host_group"  # label of every series of hosts that are not in the default group

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
RUNG = "trimtab_rung_in_force"  # gauge: model; 0 the best rung of the ladder, as many as there are rungs: parked
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
PRESSURE_THRESHOLD = (
    "trimtab_pressure_threshold"  # gauge: budget, edge (enter | exit); what `PRESSURE` is compared with
)
EXHAUSTION = "trimtab_exhaustion_seconds"  # gauge: budget; until usage reaches its limit at its trend, +Inf: not rising
TRIGGER = "trimtab_trigger_state"  # gauge: budget; 0 calm, 1 scaling, 2 saturated
INFEASIBLE = "trimtab_plan_infeasible"  # gauge: budget; 1 while it is past `enter` and no allowed step relieves it
SLO_LATENCY = "trimtab_slo_latency_seconds"  # gauge: model, quantile; the objective
QUARANTINED = "trimtab_quarantined"  # gauge: model, variant; 1 while the variant is not planned since it failed
PLANNED_AT = "trimtab_swap_planned_timestamp_seconds"  # gauge: model, direction, from_variant, to_variant, trigger
PLANNED_BYTES = "trimtab_swap_planned_bytes"  # gauge: model, from_variant, to_variant; of the last such swap, one host
MEASURED_BYTES = "trimtab_swap_measured_bytes"  # gauge: model, from_variant, to_variant; what it came to
TICKS = "trimtab_ticks_total"  # counter: outcome
TICK_DURATION = "trimtab_tick_duration_seconds"  # histogram
LAST_TICK = "trimtab_last_tick_timestamp_seconds"  # gauge
PLAN_GENERATION = "trimtab_plan_generation"  # gauge
SOURCE_AGE = "trimtab_source_age_seconds"  # gauge: budget

#: How a variant that is none (parked) is called in the labels `variant`, `from_variant` and `to_variant`.
PARKED = "parked"

#: Upper bounds (seconds) of the request latency histogram: a factor of 1.25 apart, so that a quantile read from
#: buckets is off by at most a quarter.
LATENCY_BUCKETS: tuple[float, ...] = tuple(round(0.0005 * 1.25**i, 6) for i in range(50))
