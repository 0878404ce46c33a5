"""The admin API and the operations page, on a port of their own in the control deployment's process."""
