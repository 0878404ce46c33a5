"""The server's configuration file: read, checked, and split into what each layer needs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator
from pydantic.functional_validators import BeforeValidator

from budgets.config import BatchLimits, Budget, BudgetsConfig, ControllerConfig, ModelPolicy, parse_bytes
from deployments.config import Batching, HostConfig
from server.addresses import is_loopback
from server.console import ConsoleConfig
from variants.catalog import Catalog, Frozen
from variants.errors import ConfigError

Port = Annotated[int, Field(ge=1, le=65535)]


class AuthConfig(Frozen):
    """Who may call. `tokens_file`: a YAML list of callers (`server.auth.Entry`), read again when it changes; without it
    everyone may do everything."""

    tokens_file: str | None = None


class TlsConfig(Frozen):
    """TLS on all three ports, from PEM files that are read again when they change. `client_ca`: client certificates signed
    by it are asked for, and known by their subject's common name (see `auth`)."""

    certificate: str
    key: str
    client_ca: str | None = None


class LimitsConfig(Frozen):
    """What a client may take up. Sizes are bytes.

    `header_bytes`: a request's line and headers. `head_seconds`: how long sending them may take; `body_seconds`: the same
    for a body. `tensors`: inputs of one request. `streams`: concurrent requests on one HTTP/2 connection. `connections`:
    open ones, all clients together. `requests`: for inference, under way on one model host at once and waiting ones
    included; beyond that HAProxy refuses at once, which costs the host nothing.
    """

    header_bytes: Annotated[int, BeforeValidator(parse_bytes), Field(ge=4096, le=1 << 20)] = 16 << 10
    head_seconds: int = Field(default=10, ge=1)
    body_seconds: float = Field(default=60.0, gt=0)
    tensors: int = Field(default=128, ge=1)
    streams: int = Field(default=100, ge=1)
    connections: int = Field(default=4096, ge=16)
    requests: int = Field(default=1024, ge=1)


class ServerConfig(Frozen):
    """Where clients reach the server. `max_body_bytes` bounds a request body, HTTP and gRPC alike. The admin API and the
    operations page have a port of their own; `admin_host` None: as `host`. `shared_memory`: whether
    clients may name shared memory of this machine; None: where `host` is a loopback address, so that they are on it."""

    host: str = "127.0.0.1"
    http_port: Port = 8000
    grpc_port: Port = 8001
    admin_host: str | None = None
    admin_port: Port = 8002
    max_body_bytes: Annotated[int, BeforeValidator(parse_bytes), Field(gt=0)] = 64 << 20
    allow_unauthenticated: bool = False
    auth: AuthConfig = AuthConfig()
    tls: TlsConfig | None = None
    limits: LimitsConfig = LimitsConfig()

    shared_memory: bool | None = None

    @property
    def shares_memory(self) -> bool:
        """Whether the shared-memory extension is on."""
        return is_loopback(self.host) if self.shared_memory is None else self.shared_memory

    @property
    def admin_address(self) -> str:
        """The address that the admin port is bound to."""
        return self.host if self.admin_host is None else self.admin_host

    @model_validator(mode="after")
    def _safe(self) -> ServerConfig:
        ports = {"http_port": self.http_port, "grpc_port": self.grpc_port, "admin_port": self.admin_port}
        for (a, one), (b, other) in itertools.combinations(ports.items(), 2):
            if one == other:
                raise ValueError(f"{a} and {b} are both {one}")
        if self.auth.tokens_file is None and not self.allow_unauthenticated:
            for name, address in (("host", self.host), ("admin_host", self.admin_address)):
                if not is_loopback(address):
                    raise ValueError(
                        f"{name} {address} lets other machines in, and nobody is asked who they are: give "
                        "server.auth.tokens_file, or set server.allow_unauthenticated to true where something else keeps "
                        "strangers out"
                    )
        if self.tls is not None and self.tls.client_ca is not None and self.auth.tokens_file is None:
            raise ValueError(
                "tls.client_ca asks for certificates, but server.auth.tokens_file is not given to know them by"
            )
        return self


class MetricsConfig(Frozen):
    """The exposition of each process. `port` is the first port tried, each process takes the next free one; 0 lets the
    system choose. `ray_port` is where Ray's own exporter listens (0: nowhere, and nothing is gathered for it); `targets` are
    further endpoints the embedded source reads (DCGM, node exporter)."""

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
    """A model's policy, its batching, and how many bytes of its answers are kept (`server.response_cache`)."""

    batching: Batching | None = None
    response_cache: Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)] = 0


class Settings(Frozen):
    """The whole file. Paths are relative to the file's folder.

    `trust_repository_code`: variants that run Python of the repository when loaded (torch factories, pickles) may be
    served. `config_path`: the file itself, watched for changes; set when it is read.
    """

    repository: str
    trust_repository_code: bool = False
    config_path: str | None = None
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
        host = self.host_config()
        limits = BatchLimits(
            every=host.batching.max_batch, models={name: batching.max_batch for name, batching in host.models.items()}
        )
        return BudgetsConfig(controller=self.controller, budgets=self.budgets, models=policies, batches=limits)

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
    settings = parse_settings(raw, base=path.absolute().parent, name=str(path))
    return settings.model_copy(update={"config_path": str(path.absolute())})


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
    server = settings.server
    if server.auth.tokens_file is not None:
        auth = server.auth.model_copy(update={"tokens_file": absolute(server.auth.tokens_file)})
        server = server.model_copy(update={"auth": auth})
    if server.tls is not None:
        files = {name: absolute(value) for name, value in server.tls.model_dump(exclude_none=True).items()}
        server = server.model_copy(update={"tls": TlsConfig.model_validate(files)})
    return settings.model_copy(
        update={
            "server": server,
            "repository": absolute(settings.repository),
            "budgets": budgets,
            "controller": settings.controller.model_copy(update={"journal": absolute(settings.controller.journal)}),
        }
    )
