"""What came of an engine call: handed to those who asked, counted, and learnt from."""

from __future__ import annotations

from deployments.api import Answer
from deployments.calls import Batch
from deployments.company import Company
from deployments.foresight import Foresight
from deployments.shadow import Sampler
from deployments.shapes import Shapes
from deployments.standing import Standing
from deployments.tally import Tally


class Results:
    """One model's (a `deployments.calls.Owner`). `company`: None where nothing is padded."""

    def __init__(
        self,
        standing: Standing,
        foresight: Foresight,
        company: Company | None,
        tally: Tally,
        sampler: Sampler,
        shapes: Shapes,
    ) -> None:
        self._standing = standing
        self._foresight = foresight
        self._company = company
        self._tally = tally
        self._sampler = sampler
        self._shapes = shapes

    def call_ended(self, batch: Batch) -> None:
        """See `deployments.calls.Owner`."""
        self._foresight.ended(batch, in_force=batch.loaded is self._standing.loaded)

    def hand_out(self, batch: Batch) -> None:
        """See `deployments.calls.Owner`."""
        seconds, variant, started, size = batch.seconds, batch.loaded.variant, batch.started, batch.rows
        queued = []
        for pending, result in zip(batch.pending, batch.results, strict=True):
            queue_seconds = started - pending.arrival
            queued.append(queue_seconds)
            future = pending.future
            if future.done():  # expired or cancelled meanwhile
                continue
            if isinstance(result, dict):
                future.set_result(Answer(result, variant, queue_seconds, seconds, size))
                if pending.tight:
                    self._foresight.kept()
            else:
                future.set_exception(result)
        self._tally.executed(variant, size, queued, seconds, batch.around)
        self._shapes.ran(batch.shape)
        if self._company is not None:
            padded, positions = batch.wasted
            self._tally.padded(padded, positions)
            if batch.loaded is self._standing.loaded:
                self._company.overhead.took(positions, seconds)
        if started >= self._sampler.due and isinstance(batch.results[0], dict):
            self._sampler.take(batch.pending[0].inputs, batch.results[0], variant, started)
