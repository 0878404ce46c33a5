"""Builders: each technique one file, one function from a variant to a variant."""
