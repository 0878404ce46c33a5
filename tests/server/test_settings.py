from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import Settings, load_settings, parse_settings
from variants.errors import ConfigError
from variants.repository import load_catalog


def write(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "trimtab.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    budget = {
        "name": "ram",
        "resource": "ram",
        "scope": "trimtab",
        "limit": "3GiB",
        "neighbours": [{"name": "n", "pid_file": "run/n.pid"}],
    }
    settings = load_settings(write(tmp_path, {"repository": "models", "budgets": [budget]}))
    assert settings.repository == str(tmp_path / "models")
    assert settings.controller.journal == str(tmp_path / "state/journal.jsonl")
    assert settings.budgets[0].limit == 3 << 30
    assert settings.budgets[0].neighbours[0].pid_file == str(tmp_path / "run/n.pid")


def test_settings_survive_json(tmp_path: Path) -> None:
    models = {"m": {"weight": 2, "slo": {"latency_seconds": 0.1}, "batching": {"max_batch": 4}}}
    settings = parse_settings({"repository": "models", "models": models}, base=tmp_path)
    again = Settings.model_validate(settings.model_dump(mode="json"))
    assert again == settings
    assert again.budgets_config().policy("m").weight == 2
    assert again.host_config().batching_of("m").max_batch == 4
    assert again.host_config().batching_of("other").max_batch is None
    limits = again.budgets_config().batches
    assert (limits.of("m"), limits.of("other")) == (4, None)
    assert (again.host_config().weights, again.host_config().objectives) == ({"m": 2.0}, {"m": 0.1})


def test_the_controller_knows_the_batches_that_hosts_allow(tmp_path: Path) -> None:
    host = {"batching": {"max_batch": 8}, "models": {"a": {"max_batch": 2}}}
    models = {"b": {"batching": {"max_batch": 3}}, "c": {"batching": {"queue": 9}}}
    settings = parse_settings({"repository": "models", "host": host, "models": models}, base=tmp_path)
    for name, most in (("a", 2), ("b", 3), ("c", None), ("d", 8)):
        assert settings.budgets_config().batches.of(name) == most
        assert settings.host_config().batching_of(name).max_batch == most
    assert "batches" not in parse_settings({"repository": "models"}, base=tmp_path).budgets_config().model_dump_json()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("repository: [", "not YAML"),
        ("- a", "mapping is expected"),
        ({}, "repository"),
        ({"repository": "m", "replicas": 0}, "replicas"),
        ({"repository": "m", "sever": {}}, "sever"),
        ({"repository": "m", "server": {"http_port": 70000}}, "server.http_port"),
        ({"repository": "m", "server": {"http_port": 9, "grpc_port": 9}}, "both 9"),
        ({"repository": "m", "budgets": [{"name": "b", "resource": "disk"}]}, "resource"),
        ({"repository": "m", "budgets": [{"name": "b", "resource": "ram", "limit": "3 parsecs"}]}, "KiB"),
        ({"repository": "m", "budgets": [{"name": "b", "resource": "ram", "enter": 0.5, "exit": 0.6}]}, "below enter"),
        ({"repository": "m", "budgets": [{"name": "b", "resource": "ram"}] * 2}, "same name"),
        ({"repository": "m", "models": {"x": {"floor": 1.5}}}, "models.x.floor"),
        ({"repository": "m", "models": {"x": {"slo": {"quantile": 0.9}}}}, "latency_seconds"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(write(tmp_path, document))
    assert message in str(raised.value)
    assert "trimtab.yaml" in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml"):
        load_settings(tmp_path / "nothing.yaml")


def test_models_are_compared_with_the_repository(affine_repository: Path, tmp_path: Path) -> None:
    catalog = load_catalog(affine_repository)

    def settings(models: Any) -> Settings:
        return parse_settings({"repository": str(affine_repository), "models": models}, base=tmp_path)

    settings({"alpha": {"pin": "lite"}}).check(catalog)
    with pytest.raises(ConfigError, match="gamma: no such model.*alpha, beta"):
        settings({"gamma": {}}).check(catalog)
    with pytest.raises(ConfigError, match="no variant 'huge'.*full"):
        settings({"alpha": {"pin": "huge"}}).check(catalog)
    with pytest.raises(ConfigError, match="no servable model"):
        settings({}).check(load_catalog(tmp_path))


@pytest.mark.parametrize(
    "server", [{"host": "0.0.0.0"}, {"admin_host": "10.1.2.3"}, {"host": "::"}, {"host": "gpu-box"}]
)
def test_other_machines_are_let_in_only_on_purpose(tmp_path: Path, server: dict[str, Any]) -> None:
    def parse(**more: Any) -> Settings:
        return parse_settings({"repository": "m", "server": {**server, **more}}, base=tmp_path)

    with pytest.raises(ConfigError) as raised:
        parse()
    assert "server.auth.tokens_file" in str(raised.value)
    assert "server.allow_unauthenticated" in str(raised.value)
    parse(allow_unauthenticated=True)
    assert parse(auth={"tokens_file": "tokens.yaml"}).server.auth.tokens_file == str(tmp_path / "tokens.yaml")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_no_more(tmp_path: Path, host: str) -> None:
    settings = parse_settings({"repository": "m", "server": {"host": host}}, base=tmp_path)
    assert settings.server.admin_address == host


def test_tls_files_are_relative_to_the_file_too(tmp_path: Path) -> None:
    tls = {"certificate": "tls.crt", "key": "/k/tls.key", "client_ca": "ca.crt"}
    document = {"repository": "m", "server": {"tls": tls, "auth": {"tokens_file": "t"}}}
    found = parse_settings(document, base=tmp_path).server.tls
    assert found is not None
    assert (found.certificate, found.key, found.client_ca) == (
        str(tmp_path / "tls.crt"),
        "/k/tls.key",
        str(tmp_path / "ca.crt"),
    )
    with pytest.raises(ConfigError, match="client_ca asks for certificates"):
        parse_settings({"repository": "m", "server": {"tls": tls}}, base=tmp_path)


def test_the_file_remembers_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, {"repository": "m", "config_path": "/elsewhere"})
    assert load_settings(path).config_path == str(path)


def test_shared_memory_is_on_by_itself_where_only_this_machine_reaches_the_server(tmp_path: Path) -> None:
    def on(**server: Any) -> bool:
        return parse_settings({"repository": "m", "server": server}, base=tmp_path).server.shares_memory

    assert on()
    assert on(host="::1")
    assert not on(shared_memory=False)
    assert not on(host="0.0.0.0", allow_unauthenticated=True)
    assert on(host="0.0.0.0", allow_unauthenticated=True, shared_memory=True)


def test_a_response_cache_is_a_size(tmp_path: Path) -> None:
    models = {"m": {"response_cache": "64MiB"}, "n": {}}
    settings = parse_settings({"repository": "m", "models": models}, base=tmp_path)
    assert (settings.models["m"].response_cache, settings.models["n"].response_cache) == (64 << 20, 0)
    with pytest.raises(ConfigError, match="models.m.response_cache"):
        parse_settings({"repository": "m", "models": {"m": {"response_cache": -1}}}, base=tmp_path)
