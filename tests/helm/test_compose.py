"""compose.yaml and the files it mounts, as far as they can be judged without a container runtime."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import load_settings
from tests.helm.rendering import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
FOLDER = ROOT / "helm" / "compose"


def mounts(service: str) -> dict[str, str]:
    """What a service mounts, by where."""
    return {volume.split(":")[1]: volume.split(":")[0] for volume in COMPOSE["services"][service]["volumes"]}


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def test_the_composed_server_takes_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.yaml"
    file.write_text(COMPOSE["configs"]["trimtab"]["content"])
    settings = load_settings(file)
    service = COMPOSE["services"]["trimtab"]
    assert settings.repository in mounts("trimtab")
    assert str(Path(settings.controller.journal).parent) in mounts("trimtab")
    published = {int(port.rpartition(":")[2]) for port in service["ports"]}
    assert published == {settings.server.http_port, settings.server.grpc_port, 8002}
    assert all(port.startswith("127.0.0.1:") for s in COMPOSE["services"].values() for port in s["ports"])
    (job,) = read("prometheus.yml")["scrape_configs"]
    (line,) = job["static_configs"]
    first = settings.metrics.port
    assert line["targets"] == [f"trimtab:{port}" for port in (first, first + 1, first + 2, settings.metrics.ray_port)]


def test_composed_models_exist() -> None:
    config = yaml.safe_load(COMPOSE["configs"]["trimtab"]["content"])
    for model in config["models"]:
        assert (ROOT / "examples" / "models" / model / "model.yaml").is_file()


def test_references_resolve() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for name, service in COMPOSE["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert {c["source"] for c in service.get("configs", [])} <= set(COMPOSE["configs"])
        for source in mounts(name).values():
            assert source in COMPOSE["volumes"] or source.startswith("./")
            if source.startswith("./helm/compose/"):
                assert (ROOT / source).is_file()
        assert re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+$", service["image"])
    assert f" AS {COMPOSE['services']['trimtab']['build']['target']}\n" in dockerfile


def test_grafana_finds_prometheus_and_the_charts_dashboards() -> None:
    places = mounts("grafana")
    assert places["/etc/grafana/provisioning/datasources/trimtab.yaml"] == "./helm/compose/datasource.yaml"
    assert places["/etc/grafana/provisioning/dashboards/trimtab.yaml"] == "./helm/compose/dashboards.yaml"
    (provider,) = read("dashboards.yaml")["providers"]
    assert places[provider["options"]["path"]] == "./helm/trimtab/dashboards"
    (source,) = read("datasource.yaml")["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert port in COMPOSE["services"][host]["ports"][0].split(":")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_prometheus_takes_its_configuration() -> None:
    command = ["promtool", "check", "config", str(FOLDER / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
