"""Samples to rows, rows to a table, and what is kept between runs."""

from dataclasses import replace

from benchmarks.table import MIB, Sample, cells, keep, markdown, rows

ONE = Sample("tiny", "HTTP, 1 client", "trimtab", 1000.0, 1.0, 2.0, 0.5, 10 * MIB, 5 * MIB, 100)


def test_a_row_is_the_median_of_its_rounds():
    rounds = [replace(ONE, rate=rate, p99=p99) for rate, p99 in ((900.0, 9.0), (1100.0, 2.0), (1000.0, 3.0))]
    [row] = rows(rounds)
    assert (row.rate, row.p50, row.p99, row.rounds, row.answers) == (1000.0, 1.0, 3.0, 3, 300)


def test_cases_keep_the_order_in_which_they_were_measured():
    second = replace(ONE, case="HTTP, 16 clients")
    samples = [ONE, second, replace(ONE, server="Triton"), replace(second, server="Triton")]
    assert [(row.case, row.server) for row in rows(samples)] == [
        ("HTTP, 1 client", "trimtab"),
        ("HTTP, 1 client", "Triton"),
        ("HTTP, 16 clients", "trimtab"),
        ("HTTP, 16 clients", "Triton"),
    ]


def test_cells_are_rounded_and_what_was_not_measured_is_a_dash():
    [row] = rows([replace(ONE, rate=12345.6, p50=None)])
    assert cells(row) == ["tiny", "HTTP, 1 client", "trimtab", "12,346", "–", "2.00", "0.50", "10", "5"]


def test_markdown_aligns_text_left_and_numbers_right():
    assert markdown(("server", "n"), [["a", "1"], ["bc", "1,000"]], 1).splitlines() == [
        "| server |     n |",
        "| ------ | ----: |",
        "| a      |     1 |",
        "| bc     | 1,000 |",
    ]


def test_what_was_not_measured_again_is_kept(tmp_path):
    path = tmp_path / "out" / "samples.json"
    other = replace(ONE, workload="minilm", server="Triton")
    orders = ["tiny", "minilm"], ["trimtab", "Triton"]
    keep(path, [other, replace(ONE, server="Triton"), ONE], *orders)
    kept = keep(path, [replace(ONE, rate=1.0)], *orders)
    assert [(s.workload, s.server, s.rate) for s in kept] == [
        ("tiny", "trimtab", 1.0),
        ("tiny", "Triton", 1000.0),
        ("minilm", "Triton", 1000.0),
    ]
