"""Callers from a tokens file: what is accepted, what is refused, and what happens when it changes."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.auth import Authenticator, Caller, Entry, Forbidden, ProxyIdentity, RateLimited, Unauthenticated
from server.ratelimit import TokenBucket
from variants.errors import ConfigError

SHA = hashlib.sha256(b"secret-token").hexdigest()


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def write(path: Path, entries: Any) -> Path:
    path.write_text(yaml.safe_dump(entries))
    return path


def test_a_token_in_a_file_of_its_own_is_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a Secret: the file is a symlink through a folder that is exchanged."""
    for version in ("one", "two"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "token").write_text(f"token-{version}\n")
    (tmp_path / "data").symlink_to("one")
    path = write(tmp_path / "tokens.yaml", [{"name": "ci", "token_file": "data/token", "role": "infer"}])
    clock = Clock()
    known = Authenticator(path, clock=clock)
    assert known.caller(b"Bearer token-one").name == "ci"
    (tmp_path / "new").symlink_to("two")
    os.replace(tmp_path / "new", tmp_path / "data")
    assert known.caller(b"Bearer token-one").name == "ci"  # looked at once a second
    clock.now = 1.0
    assert known.caller(b"bearer token-two").name == "ci"
    with pytest.raises(Unauthenticated):
        known.caller(b"Bearer token-one")


def test_a_file_that_becomes_wrong_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "tokens.yaml", [{"name": "a", "sha256": SHA, "role": "read"}])
    clock = Clock()
    known = Authenticator(path, clock=clock)
    path.write_text("- {name: a, sha256: secret-token, role: read}")
    for second in (1.0, 2.0):
        clock.now = second
        assert known.caller(b"Bearer secret-token").name == "a"
    refusals = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(refusals) == 1
    assert "entry 0: sha256" in refusals[0].getMessage()
    assert "secret-token" not in caplog.text
    write(path, [{"name": "b", "sha256": SHA, "role": "read"}])
    clock.now = 3.0
    assert known.caller(b"Bearer secret-token").name == "b"


def test_a_rate_limit_goes_on_counting_when_the_file_changes(tmp_path: Path) -> None:
    entry = {"name": "a", "sha256": SHA, "role": "infer", "requests_per_second": 1}
    path = write(tmp_path / "tokens.yaml", [entry])
    clock = Clock()
    known = Authenticator(path, clock=clock)
    known.caller(b"Bearer secret-token").admit("infer", now=clock.now)
    write(path, [entry, {"name": "b", "certificate": "cn", "role": "read"}])
    clock.now = 1.0
    caller = known.caller(b"Bearer secret-token")
    assert known.caller(None, "cn").name == "b"
    caller.admit("infer", now=1.0)
    with pytest.raises(RateLimited) as raised:
        caller.admit("infer", now=1.5)
    assert raised.value.retry_after_seconds == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": 1}, "a list is expected"),
        ([{"name": "a", "role": "read"}], "exactly one of sha256, token_file, certificate"),
        ([{"name": "a", "sha256": SHA, "certificate": "x", "role": "read"}], "exactly one of"),
        ([{"name": "a", "sha256": SHA}], "roles"),
        ([{"name": "a", "sha256": SHA, "role": "admin"}], "'infer', 'read' or 'operate'"),
        ([{"name": "a", "sha256": SHA, "role": "read", "models": []}], "models"),
        ([{"name": "a", "sha256": SHA, "role": "read", "requests_per_second": 0}], "requests_per_second"),
        ([{"name": "a", "token_file": "absent", "role": "read"}], "absent: No such file"),
        ([{"name": "a", "sha256": SHA, "role": "read"}, {"name": "b", "sha256": SHA, "role": "infer"}], "same token"),
        ([{"name": "a", "sha256": SHA, "role": "read"}] * 2, "two entries are named a"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, entries: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Authenticator(write(tmp_path / "tokens.yaml", entries))
    assert message in str(raised.value)
    assert "tokens.yaml" in str(raised.value) or "absent" in str(raised.value)


def test_roles_and_scopes() -> None:
    caller = Caller(Entry(name="a", sha256=SHA, roles=("operate",), models=("mini*", "wine")))
    caller.admit("read", now=0)
    with pytest.raises(Forbidden, match="needs role infer"):
        caller.admit("infer", now=0)
    caller.check_scope("minilm")
    for model in ("wines", "a/minilm", "", None):
        with pytest.raises(Forbidden, match=r"is for models mini\*, wine"):
            caller.check_scope(model)


def test_the_proxys_word() -> None:
    proxy = ProxyIdentity("secret")
    assert proxy.common_name(b"secret robot one") == "robot one"
    for value in (None, b"", b"secret", b"secret ", b"secre robot", b"robot"):
        assert proxy.common_name(value) is None


def test_a_bucket_refills_and_is_bounded() -> None:
    bucket = TokenBucket(2.0)
    assert [bucket.take(0.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    assert bucket.take(0.5) == 0.0
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.5]
    slow = TokenBucket(0.1)  # less than one a second: a burst of one
    assert (slow.take(0.0), slow.take(0.0)) == (0.0, 10.0)
