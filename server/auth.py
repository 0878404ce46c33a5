"""Who calls and what they may do: bearer tokens and client certificates, with roles, model scopes and rate limits.

Roles: `infer` (call models and read about them), `read` (everything the admin API and /metrics show), `operate` (read,
and change). Scopes are globs over model names. Sources: RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import hmac
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from server.ratelimit import TokenBucket
from server.watched import Watched
from variants.catalog import Frozen
from variants.errors import ConfigError, RequestError
from variants.repository import problems

log = logging.getLogger("trimtab.auth")
Role = Literal["infer", "read", "operate"]
#: What each role allows besides itself.
IMPLIES: Mapping[Role, frozenset[Role]] = {
    "infer": frozenset({"infer"}),
    "read": frozenset({"read"}),
    "operate": frozenset({"operate", "read"}),
}
#: How often the files are looked at, at most.
LOOK_SECONDS = 1.0
SCHEME = b"bearer "


class Unauthenticated(RequestError):
    """No token or certificate, or one that is not known."""


class Forbidden(RequestError):
    """The caller is known, but not for this."""


class RateLimited(RequestError):
    """The caller has used up its requests per second. `retry_after_seconds`: when there is room again."""

    def __init__(self, message: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Entry(Frozen):
    """One caller of the tokens file: a token by its SHA-256 (`sha256`, hex) or in a file of its own (`token_file`,
    relative to the tokens file), or a client certificate by its subject's common name (`certificate`)."""

    name: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-fA-F]{64}$")
    token_file: str | None = None
    certificate: str | None = Field(default=None, min_length=1)
    roles: tuple[Role, ...] = Field(min_length=1)
    models: tuple[str, ...] = Field(default=("*",), min_length=1)
    requests_per_second: float | None = Field(default=None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _one_role(cls, value: Any) -> Any:
        """`role: read` is short for `roles: [read]`."""
        if isinstance(value, dict) and "role" in value and "roles" not in value:
            rest = {k: v for k, v in value.items() if k != "role"}
            return {**rest, "roles": [value["role"]]}
        return value

    @field_validator("models", "roles", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_proof(self) -> Entry:
        if sum(x is not None for x in (self.sha256, self.token_file, self.certificate)) != 1:
            raise ValueError(f"{self.name!r} needs exactly one of sha256, token_file, certificate")
        return self


class Caller:
    """An authenticated caller. Belongs to one process: its rate limit is counted there."""

    def __init__(self, entry: Entry, *, share: float = 1.0) -> None:
        self.name = entry.name
        self._allowed: frozenset[Role] = frozenset().union(*(IMPLIES[role] for role in entry.roles))
        self._globs = entry.models
        rate = entry.requests_per_second
        self._bucket = None if rate is None else TokenBucket(rate * share)
        # Bounded: names of models come from clients.
        self._sees = functools.lru_cache(maxsize=256)(self._matches)

    def _matches(self, model: str) -> bool:
        return any(fnmatch.fnmatchcase(model, glob) for glob in self._globs)

    def may(self, *roles: Role) -> bool:
        """Whether the caller has one of the roles."""
        return not self._allowed.isdisjoint(roles)

    def admit(self, *roles: Role, now: float) -> None:
        """Let one request pass that needs one of `roles`, and count it. Raises Forbidden, RateLimited."""
        if not self.may(*roles):
            raise Forbidden(f"{self.name!r} may not do this: it needs role {' or '.join(roles)}")
        if self._bucket is not None and (wait := self._bucket.take(now)):
            raise RateLimited(f"{self.name!r} has used up its requests per second", wait)

    def check_scope(self, model: str | None) -> None:
        """Raises Forbidden unless the caller is for this model (None: the request concerns all of them)."""
        if "*" in self._globs or (model is not None and self._sees(model)):
            return
        what = "this concerns all models" if model is None else f"not {model[:128]!r}"
        raise Forbidden(f"{self.name!r} is for models {', '.join(self._globs)}; {what}")


class Authenticator:
    """Callers by token and by certificate, from a file that is read again when it changes.

    `share`: this process's part of the rate limits (one over the number of replicas). Raises ConfigError when the file is
    wrong at the start; one that becomes wrong later is reported and the callers known before stay.
    """

    def __init__(self, path: Path, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._share = share
        self._clock = clock
        self._known: dict[Entry, Caller] = {}
        self._tokens: dict[bytes, Caller] = {}
        self._certificates: dict[str, Caller] = {}
        self._refused = ""
        self._looked = clock()
        self._watched = Watched([str(path)])
        self._load()

    def _load(self) -> None:
        entries = read_entries(self._path)
        known: dict[Entry, Caller] = {}
        tokens: dict[bytes, Caller] = {}
        certificates: dict[str, Caller] = {}
        files = [str(self._path)]
        for entry in entries:
            # An entry that stays as it was keeps its caller: its rate limit goes on counting.
            caller = self._known.get(entry) or Caller(entry, share=self._share)
            known[entry] = caller
            if entry.certificate is not None:
                certificates[entry.certificate] = caller
                continue
            if entry.token_file is not None:
                files.append(str(self._path.parent / entry.token_file))
            digest = digest_of(entry, self._path.parent)
            if digest in tokens:
                raise ConfigError(f"{self._path}: {tokens[digest].name} and {entry.name} have the same token")
            tokens[digest] = caller
        self._known = known
        self._watched = Watched(files)
        self._tokens, self._certificates = tokens, certificates

    def _refresh(self, now: float) -> None:
        self._looked = now
        if not self._watched.changed() and not self._refused:
            return
        try:
            self._load()
        except ConfigError as error:
            if str(error) != self._refused:
                log.error("the tokens file was not taken, the callers known before stay: %s", error)
            self._refused = str(error)
        else:
            self._refused = ""
            log.info("%s: %d callers", self._path, len(self._tokens) + len(self._certificates))

    def caller(self, authorization: bytes | None, certificate: str | None = None) -> Caller:
        """Who has this `Authorization` header, or else this certificate's common name. Raises Unauthenticated; its message
        never holds what was sent."""
        now = self._clock()
        if now - self._looked >= LOOK_SECONDS:
            self._refresh(now)
        if authorization is not None:
            if authorization[:7].lower() != SCHEME:
                raise Unauthenticated("the Authorization header must be `Bearer TOKEN`")
            # Looked up by digest: how long that takes tells nothing of any token.
            digest = hashlib.sha256(authorization[7:].strip()).digest()
            caller = self._tokens.get(digest)
            if caller is None:
                raise Unauthenticated("the token is not known")
            return caller
        if certificate is not None:
            caller = self._certificates.get(certificate)
            if caller is None:
                raise Unauthenticated("the client certificate's subject is not known")
            return caller
        raise Unauthenticated("a bearer token or a client certificate is needed")

    def now(self) -> float:
        """The clock that rate limits are counted by."""
        return self._clock()


def digest_of(entry: Entry, folder: Path) -> bytes:
    """The SHA-256 of an entry's token. Raises ConfigError when its file cannot be read or is empty."""
    if entry.sha256 is not None:
        return bytes.fromhex(entry.sha256)
    path = folder / str(entry.token_file)
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if not token:
        raise ConfigError(f"{path}: the token is empty")
    return hashlib.sha256(token).digest()


def read_entries(path: Path) -> tuple[Entry, ...]:
    """The callers of a tokens file. Raises ConfigError naming file, entry and what would be accepted, never a secret."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{path}: not YAML") from None
    if not isinstance(raw, list):
        raise ConfigError(
            f"{path}: a list is expected, of entries with name, sha256 or token_file or certificate, roles"
        )
    entries = []
    for number, item in enumerate(raw):
        try:
            entries.append(Entry.model_validate(item))
        except ValidationError as error:
            raise ConfigError(f"{path}: entry {number}: {problems(error)}") from None
    names = [entry.name for entry in entries]
    if repeated := sorted({n for n in names if names.count(n) > 1}):
        raise ConfigError(f"{path}: two entries are named {', '.join(repeated)}")
    return tuple(entries)


class ProxyIdentity:
    """The client certificate that the TLS-terminating proxy saw, in a header that only the proxy can write: it starts with
    a secret that the proxy and the replicas share. Spelt `secret common-name`."""

    HEADER = b"x-trimtab-client-certificate"

    def __init__(self, secret: str) -> None:
        self._prefix = secret.encode() + b" "

    def common_name(self, value: bytes | None) -> str | None:
        """The common name, or None when the header is absent or not the proxy's."""
        if value is None or not hmac.compare_digest(value[: len(self._prefix)], self._prefix):
            return None
        return value[len(self._prefix) :].decode("utf-8", "replace") or None


def header(headers: Any, name: bytes) -> bytes | None:
    """The value of an ASGI header, or None. Raises Unauthenticated when it is there twice, which no honest client does."""
    values = list(_values(headers, name))
    if len(values) > 1:
        raise Unauthenticated(f"the {name.decode()} header is there {len(values)} times")
    return values[0] if values else None


def _values(headers: Any, name: bytes) -> Iterator[bytes]:
    return (value for key, value in headers if key == name)
