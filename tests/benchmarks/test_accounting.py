"""Which processes are a server's, and what they used in between."""

from benchmarks.accounting import Usage, family, proportional


def test_a_family_is_the_seeds_and_all_that_descend_from_them():
    parents = {1: 0, 10: 1, 11: 10, 12: 11, 20: 1, 21: 20}
    assert family(parents, {10}) == {10, 11, 12}
    assert family(parents, {10, 21}) == {10, 11, 12, 21}


def test_a_seed_that_has_ended_has_no_family():
    assert family({1: 0, 11: 10}, {10}) == set()


def test_cpu_counts_processes_that_started_in_between_and_no_reused_pid():
    before = Usage({(10, 1.0): 5.0, (11, 1.0): 7.0}, 0, 0)
    after = Usage({(10, 1.0): 5.5, (11, 9.0): 0.25, (12, 9.0): 1.0}, 0, 0)
    assert after.cpu_since(before) == 1.75


def test_proportional_set_size_is_read_in_bytes():
    assert proportional("00400000-7ff r--p\nRss:   100 kB\nPss:    40 kB\nPss_Anon:  30 kB\n") == 40 << 10
