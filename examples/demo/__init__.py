"""`make demo`: the example models under steady traffic, put under memory and latency pressure, and what came of it."""
