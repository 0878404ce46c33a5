"""A host's own metrics, put together from its slots' counters at each scrape; requests pay for plain numbers only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from budgets import exposition as names
from deployments.slot import Slot
from deployments.steering import Steering
from deployments.tally import Histogram
from variants.catalog import Catalog


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    family.add_metric(labels, histogram.cumulative(), histogram.sum)


class HostCollector:
    """Called in the exporter's threads while the event loop counts on: every number is whole, copies are taken of what
    may grow."""

    def __init__(self, catalog: Catalog, slots: Mapping[str, Slot], steering: Steering) -> None:
        self._device = catalog.device
        self._slots = slots
        self._steering = steering

    def collect(self) -> Iterable[Metric]:
        """Called by prometheus_client."""
        yield from self._requests()
        yield from self._engines()
        yield from self._variants()
        yield from self._swaps()

    def _requests(self) -> Iterable[Metric]:
        requests = CounterMetricFamily(
            names.REQUESTS, "Requests answered, by outcome", labels=["model", "variant", "code", "protocol"]
        )
        latency = HistogramMetricFamily(
            names.REQUEST_DURATION, "Arrival to answer inside the host", labels=["model", "variant"]
        )
        queued = HistogramMetricFamily(names.QUEUE_DURATION, "Time from arrival to the engine call", labels=["model"])
        depth = GaugeMetricFamily(names.QUEUE_DEPTH, "Requests waiting now", labels=["model"])
        for model, slot in self._slots.items():
            for (variant, code, protocol), count in list(slot.tally.requests.items()):
                requests.add_metric([model, variant, code, protocol], float(count))
            for variant, histogram in list(slot.tally.latency.items()):
                _add(latency, [model, variant], histogram)
            _add(queued, [model], slot.tally.queue)
            depth.add_metric([model], float(len(slot.queue)))
        yield from (requests, latency, queued, depth)

    def _engines(self) -> Iterable[Metric]:
        batch = HistogramMetricFamily(names.BATCH_SIZE, "Samples per engine call", labels=["model"])
        seconds = CounterMetricFamily(names.ENGINE_SECONDS, "Time inside engine calls", labels=["model", "variant"])
        samples = CounterMetricFamily(names.ENGINE_SAMPLES, "Samples through engine calls", labels=["model", "variant"])
        padding = CounterMetricFamily(names.PADDING, "Padded positions (rows times length) in calls", labels=["model"])
        positions = CounterMetricFamily(names.POSITIONS, "All positions in calls that may be padded", labels=["model"])
        for model, slot in self._slots.items():
            _add(batch, [model], slot.tally.batch)
            if slot.entry.model.pad:
                padding.add_metric([model], float(slot.tally.padding))
                positions.add_metric([model], float(slot.tally.positions))
            for variant, total in list(slot.tally.engine.items()):
                seconds.add_metric([model, variant], total.seconds)
                samples.add_metric([model, variant], float(total.count))
        yield from (batch, seconds, samples, padding, positions)

    def _variants(self) -> Iterable[Metric]:
        resident = GaugeMetricFamily(
            names.RESIDENT, "Bytes a resident variant holds, measured where it could be", labels=["model", "variant"]
        )
        in_force = GaugeMetricFamily(names.IN_FORCE, "1 for the variant that answers now", labels=["model", "variant"])
        quality = GaugeMetricFamily(names.QUALITY, "Quality of the variant in force, 0 to 1", labels=["model"])
        rung = GaugeMetricFamily(
            names.RUNG,
            "Where on its ladder the variant in force is: 0 the best rung, the number of rungs when parked",
            labels=["model"],
        )
        for model, slot in self._slots.items():
            now = slot.variant
            for variant in slot.entry.variants:
                in_force.add_metric([model, variant], float(variant == now))
            bytes_of: dict[str, int] = {}
            for loaded in list(slot.resident):
                bytes_of[loaded.variant] = bytes_of.get(loaded.variant, 0) + loaded.resident_bytes
            for variant, held in bytes_of.items():
                resident.add_metric([model, variant], float(held))
            profile = None if now is None else slot.entry.variants[now].profile(self._device)
            if profile is not None:
                quality.add_metric([model], profile.quality)
            rungs = slot.entry.ladder.rungs
            if now in rungs:
                rung.add_metric([model], float(rungs.index(now)))
            elif slot.state == "PARKED":
                rung.add_metric([model], float(len(rungs)))
        yield from (resident, in_force, quality, rung)

    def _swaps(self) -> Iterable[Metric]:
        swaps = CounterMetricFamily(names.SWAPS, "Finished swaps", labels=["model", "direction", "outcome"])
        seconds = HistogramMetricFamily(names.SWAP_DURATION, "From begin to end of a swap", labels=["model", "mode"])
        for key, count in list(self._steering.tally.outcomes.items()):
            swaps.add_metric(list(key), float(count))
        for pair, histogram in list(self._steering.tally.seconds.items()):
            _add(seconds, list(pair), histogram)
        yield from (swaps, seconds)
        yield GaugeMetricFamily(
            names.OBSERVED_GENERATION, "Last plan whose swaps have all ended", float(self._steering.observed)
        )
