"""Where readings come from: a Prometheus server, or the metrics endpoints themselves."""
