"""A cluster in virtual time: traces of requests, the planners to compare, and what each made of it."""
