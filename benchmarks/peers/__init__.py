"""The servers that trimtab is compared with, each run in an environment of its own (`*.txt`: pinned versions)."""
