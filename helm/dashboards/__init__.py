"""The chart's Grafana dashboards as code: `python -m helm.dashboards` writes helm/trimtab/dashboards/*.json."""
