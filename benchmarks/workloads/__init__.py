"""What is sent to the servers: each module is one workload, `run(context)` one measurement of it."""
