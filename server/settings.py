"""The server's configuration file: read, checked, and split into what each layer needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic.functional_validators import BeforeValidator

from budgets.config import Budget, BudgetsConfig, ControllerConfig, ModelPolicy, parse_bytes
from deployments.config import Batching, HostConfig
from server.console import ConsoleConfig
from variants.catalog import Catalog, Frozen
from variants.errors import ConfigError

Port = Annotated[int, Field(ge=1, le=65535)]


class ServerConfig(Frozen):
    """Where clients reach the server. `max_body_bytes` bounds a request body, HTTP and gRPC alike."""

    host: str = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    max_body_bytes: Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)] = 64 << 20


class MetricsConfig(Frozen):
    """The exposition of each process. `port` is the first port tried, each process takes the next free one; 0 lets the
    system choose. `ray_port` is where Ray's own exporter listens (0: chosen by Ray); `targets` are further endpoints
    the embedded source reads (DCGM, node exporter)."""

    port: Annotated[int, Field(ge=0, le=65000)] = 0
    ray_port: Annotated[int, Field(ge=0, le=65535)] = 0
    targets: tuple[str, ...] = ()


class TracingConfig(Frozen):
    """Where traces are sent by OTLP: `http://collector:4318` (or https), or `grpc://collector:4317` (or grpcs); none: off.
    `sample_ratio`: share of the requests traced for which the caller has not decided already (W3C `traceparent`)."""

    endpoint: Annotated[str, Field(pattern=r"^(https?|grpcs?)://[^/\s]+(/\S*)?$")] | None = None
    sample_ratio: Annotated[float, Field(ge=0, le=1)] = 0.01


class LoggingConfig(Frozen):
    """How trimtab's processes log to stderr: lines for people or JSON objects, from this level on."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Resources(Frozen):
    """What Ray reserves for each replica of the host."""

    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)


class ModelSettings(ModelPolicy):
    """A model's policy and its batching."""

    batching: Batching | None = None


class Settings(Frozen):
    """The whole file. Paths are relative to the file's folder."""

    repository: str
    replicas: int = Field(default=1, ge=1)
    server: ServerConfig = ServerConfig()
    metrics: MetricsConfig = MetricsConfig()
    tracing: TracingConfig = TracingConfig()
    logging: LoggingConfig = LoggingConfig()
    resources: Resources = Resources()
    host: HostConfig = HostConfig()
    controller: ControllerConfig = ControllerConfig()
    budgets: tuple[Budget, ...] = ()
    models: Mapping[str, ModelSettings] = {}
    console: ConsoleConfig = ConsoleConfig()

    def budgets_config(self) -> BudgetsConfig:
        """What the controller is told."""
        policies = {
            name: ModelPolicy(**{f: getattr(model, f) for f in ModelPolicy.model_fields})
            for name, model in self.models.items()
        }
        return BudgetsConfig(controller=self.controller, budgets=self.budgets, models=policies)

    def host_config(self) -> HostConfig:
        """What each host is told: what is said of single models laid over the host's own."""
        batching = {name: m.batching for name, m in self.models.items() if m.batching is not None}
        weights = {name: m.weight for name, m in self.models.items()}
        objectives = {name: m.slo.latency_seconds for name, m in self.models.items() if m.slo is not None}
        host = self.host
        return host.model_copy(
            update={
                "models": {**host.models, **batching},
                "weights": {**host.weights, **weights},
                "objectives": {**host.objectives, **objectives},
            }
        )

    def check(self, catalog: Catalog) -> None:
        """Compare the file with the models that are there. Raises ConfigError naming what does not fit."""
        if not catalog.entries:
            refused = "; ".join(f"{r.path}: {r.reason}" for r in catalog.refused)
            raise ConfigError(f"no servable model in {self.repository}" + (f" ({refused})" if refused else ""))
        for name, model in self.models.items():
            if name not in catalog.entries:
                known = ", ".join(sorted(catalog.entries))
                raise ConfigError(f"models.{name}: no such model in {self.repository}; there are: {known}")
            variants = catalog.entries[name].variants
            if model.pin is not None and model.pin not in variants:
                raise ConfigError(f"models.{name}.pin: no variant {model.pin!r}; there are: {', '.join(variants)}")


def load_settings(path: Path) -> Settings:
    """Read a configuration file. Raises ConfigError naming file, field and what would be accepted."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: a mapping is expected at the top, not {type(raw).__name__}")
    return parse_settings(raw, base=path.resolve().parent, name=str(path))


def parse_settings(raw: Mapping[str, Any], *, base: Path, name: str = "configuration") -> Settings:
    """Check a mapping and make its paths absolute, relative ones being relative to `base`. Raises ConfigError."""
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'top level'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{name}: {problems}") from error
    names = [b.name for b in settings.budgets]
    if len(names) != len(set(names)):
        raise ConfigError(f"{name}: budgets: two budgets have the same name ({', '.join(names)})")
    if settings.server.http_port == settings.server.grpc_port:
        raise ConfigError(f"{name}: server.http_port and server.grpc_port are both {settings.server.http_port}")

    def absolute(value: str) -> str:
        return os.path.normpath(base / value)

    budgets = tuple(
        b.model_copy(
            update={
                "neighbours": tuple(
                    n.model_copy(update={"pid_file": absolute(n.pid_file)}) if n.pid_file else n for n in b.neighbours
                )
            }
        )
        for b in settings.budgets
    )
    return settings.model_copy(
        update={
            "repository": absolute(settings.repository),
            "budgets": budgets,
            "controller": settings.controller.model_copy(update={"journal": absolute(settings.controller.journal)}),
        }
    )
