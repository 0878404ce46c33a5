"""What options cost by what is seen of their models."""

from __future__ import annotations

import pytest

from budgets.batches import batched
from budgets.config import ModelPolicy
from budgets.forecast import Past
from budgets.options import view
from budgets.snapshot import Reading
from tests.budgets.asking import MIB, NOW, Make, used
from variants.catalog import Catalog, Entry


def with_shapes(catalog: Catalog, mib: int, shapes: int) -> Catalog:
    """Each variant keeps so much more once it has run so many other shapes."""

    def changed(entry: Entry) -> Entry:
        more = {"shapes_bytes": mib * MIB, "shapes": shapes}
        variants = {
            name: v.model_copy(update={"profiles": tuple(p.model_copy(update=more) for p in v.profiles)})
            for name, v in entry.variants.items()
        }
        return entry.model_copy(update={"variants": variants})

    return catalog.model_copy(update={"entries": {name: changed(e) for name, e in catalog.entries.items()}})


@pytest.mark.parametrize(("seen", "more"), [({}, 40), ({"a": 0}, 0), ({"a": 5}, 20), ({"a": 10}, 40), ({"a": 99}, 40)])
def test_what_shapes_add_counts_by_how_many_there_are(
    desk: Make, three: Catalog, seen: dict[str, int], more: int
) -> None:
    """All of them where nobody says how many."""
    d = desk(with_shapes(three, 40, 10))
    d.shapes = seen
    options = view(d.catalog, d.snapshot, d.config).options
    assert [o.host_bytes / MIB for o in options["a"]] == [200 + more, 70 + more, 30 + more]
    assert {o.swap_bytes for o in options["a"]} == {o.host_bytes for o in options["a"]}
    assert options["b"][0].host_bytes == 240 * MIB


def test_the_host_with_the_most_shapes_counts(desk: Make, three: Catalog) -> None:
    d = desk(with_shapes(three, 40, 10))
    d.running = [d.assignment, d.assignment]
    snapshot = d.snapshot
    hosts = tuple(h.model_copy(update={"shapes": {"a": n}}) for h, n in zip(snapshot.hosts, (3, 7), strict=True))
    seen = view(d.catalog, snapshot.model_copy(update={"hosts": hosts}), d.config)
    assert seen.current["a"].host_bytes == 228 * MIB


def test_a_host_that_makes_several_calls_at_once_is_less_busy_and_answers_sooner(desk: Make, three: Catalog) -> None:
    d = desk(three)
    d.rates = {"a": Reading(value=40.0, at=NOW)}  # fp32: 20 ms a call
    one = view(d.catalog, d.snapshot, d.config)
    d.running = [d.assignment, d.assignment]
    d.rates = {"a": Reading(value=80.0, at=NOW)}
    hosts = tuple(h.model_copy(update={"streams": n}) for h, n in zip(d.snapshot.hosts, (2, 4), strict=True))
    two = view(d.catalog, d.snapshot.model_copy(update={"hosts": hosts}), d.config)
    assert (one.streams, two.streams) == (1, 2)
    assert one.utilisation(one.current) == pytest.approx(0.8)
    assert two.utilisation(two.current) == pytest.approx(0.4)
    best = two.options["a"][0]
    assert two.predict(two.current, "a", 0.99) < one.predict(one.current, "a", 0.99)
    assert two.changed(best, 0.99) == pytest.approx((0.4, two.predict(two.current, "a", 0.99)))
    entry = d.catalog.entries["a"]
    assert batched(two, entry.model, best, d.config).busy == pytest.approx(
        batched(one, entry.model, best, d.config).busy / 2
    )


def test_so_do_those_of_a_variant_that_may_not_be_chosen(desk: Make, three: Catalog) -> None:
    d = desk(with_shapes(three, 40, 10), a=ModelPolicy(floor=0.95))
    d.assignment["a"], d.shapes = "tiny", {"a": 5}
    current = view(d.catalog, d.snapshot, d.config).current["a"]
    assert (current.variant, current.host_bytes, current.cost) == ("tiny", 50 * MIB, 0.0)
    assert current.traffic == pytest.approx(1 / 3)


def test_what_the_models_keep_themselves_grows_with_their_shapes(desk: Make, three: Catalog) -> None:
    d, past = desk(with_shapes(three, 40, 10)), Past()
    d.shapes, d.usage = dict.fromkeys("abc", 0), used(700)
    past = past.remember(d.snapshot, d.catalog, d.config, 0.0)
    d.shapes, d.usage = dict.fromkeys("abc", 10), used(820, at=NOW + 1)
    past = past.remember(d.snapshot, d.catalog, d.config, 0.0)
    assert [v / MIB for _, v in past.budgets["ram"].recent] == [100.0, 100.0]
