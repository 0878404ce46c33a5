"""What the README's numbers come from. `python -m benchmarks` compares trimtab with its peers; the other modules are run by name."""
