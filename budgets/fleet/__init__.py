"""One plan for a whole fleet: which variants run on which kind of host, how many of each, and what share each serves."""
