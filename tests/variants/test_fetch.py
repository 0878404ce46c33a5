"""A repository is fetched whole and verified, or what was there stays as it was."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from tests.variants.object_store import bucket
from variants.errors import ArtefactRefused, ConfigError, FetchFailed
from variants.fetch import SUMS, fetch
from variants.repository import load_catalog

ARTEFACT = "alpha/variants/lite/model.onnx"


@pytest.fixture
def source(affine_repository: Path, tmp_path: Path) -> Path:
    """A copy of the affine repository that a test may damage."""
    copy = tmp_path / "source"
    shutil.copytree(affine_repository, copy)
    return copy


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def memory(source: Path) -> Iterator[str]:
    """The same repository in fsspec's memory file system."""
    files = fsspec.filesystem("memory")
    for name, body in contents(source).items():
        files.pipe(f"/bucket/models/{name}", body)
    yield "memory://bucket/models"
    files.rm("/bucket", recursive=True)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file by its name, dot names left out."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def write_sums(folder: Path) -> str:
    """SHA256SUMS as `find . -type f | xargs sha256sum` writes it; returns its own checksum."""
    lines = [f"{hashlib.sha256(body).hexdigest()}  ./{name}" for name, body in contents(folder).items() if name != SUMS]
    (folder / SUMS).write_text("\n".join(lines) + "\n")
    return hashlib.sha256((folder / SUMS).read_bytes()).hexdigest()


def test_a_folder_is_copied_and_can_be_served(source: Path, target: Path) -> None:
    done = fetch(f"file://{source}", target)
    assert contents(target) == contents(source)
    assert done.models == ("alpha", "beta")
    assert (done.files, done.reused) == (len(contents(source)), 0)
    assert done.bytes == sum(map(len, contents(source).values()))
    assert load_catalog(target).refused == ()


def test_any_file_system_of_fsspec_will_do(memory: str, source: Path, target: Path) -> None:
    fetch(memory, target)
    assert contents(target) == contents(source)


def test_an_s3_compatible_store_is_read_with_the_credentials_of_the_environment(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    objects = {f"ml/models/{name}": body for name, body in contents(source).items()}
    with bucket("store", objects, key_id="reader") as endpoint:
        options = {"endpoint": endpoint, "region": "local", "client_options": {"allow_http": True}}
        done = fetch("s3://store/ml/models", target, options=options)
        assert contents(target) == contents(source)
        assert done.models == ("alpha", "beta")
        again = fetch("s3://store/ml/models", target, options=options)
        assert again.bytes < done.bytes
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        with pytest.raises(FetchFailed, match=r"s3://store/ml/models: .*(403|ermission)"):
            fetch("s3://store/ml/models", target, options={**options, "region": "elsewhere"})
    assert contents(target) == contents(source)


def test_what_is_there_already_is_not_fetched_again(source: Path, target: Path) -> None:
    fetch(f"file://{source}", target)
    (target / "beta/variants/full/model.onnx").write_bytes(b"damaged meanwhile")
    shutil.rmtree(source / "alpha" / "variants" / "broken")
    done = fetch(f"file://{source}", target)
    artefacts = [name for name in contents(source) if name.endswith("model.onnx")]
    assert done.reused == len(artefacts) - 1
    assert contents(target) == contents(source)


def test_profiles_measured_here_stay_while_their_variant_is_the_same(source: Path, target: Path) -> None:
    fetch(f"file://{source}", target)
    measured = {name: target / name / "variants/full/profiles/here.json" for name in ("alpha", "beta")}
    for path in measured.values():
        path.write_text("{}")
    record = source / "beta/variants/full/variant.json"
    record.write_text(record.read_text().replace('"tolerance": 0.01', '"tolerance": 0.02'))
    fetch(f"file://{source}", target)
    assert {name: path.exists() for name, path in measured.items()} == {"alpha": True, "beta": False}


def test_a_corrupt_file_is_refused_and_what_was_there_stays(source: Path, target: Path) -> None:
    fetch(f"file://{source}", target)
    before = contents(target)
    record = source / ARTEFACT.replace("model.onnx", "variant.json")
    listed = hashlib.sha256((source / ARTEFACT).read_bytes()).hexdigest()
    record.write_text(record.read_text().replace(listed, "0" * 64))
    with pytest.raises(ArtefactRefused, match=rf"{ARTEFACT}: corrupt: sha256 is .* is listed"):
        fetch(f"file://{source}", target)
    assert contents(target) == before
    assert not (target / ".fetching").exists()


def test_a_source_that_has_become_corrupt_does_not_harm_what_is_verified(source: Path, target: Path) -> None:
    fetch(f"file://{source}", target)
    before = contents(target)
    (source / ARTEFACT).write_bytes(b"other weights")
    fetch(f"file://{source}", target)
    assert contents(target) == before
    with pytest.raises(ArtefactRefused, match="corrupt"):
        fetch(f"file://{source}", target.with_name("fresh"))


def test_a_missing_file_is_refused(source: Path, target: Path) -> None:
    (source / ARTEFACT).unlink()
    with pytest.raises(ArtefactRefused, match=f"{ARTEFACT}: missing"):
        fetch(f"file://{source}", target)
    assert contents(target) == {}


def test_a_model_that_cannot_be_served_is_refused_with_its_reason(source: Path, target: Path) -> None:
    (source / "alpha" / "model.yaml").write_text("name: other")
    with pytest.raises(ArtefactRefused, match=r"alpha: .*model\.yaml: .*task"):
        fetch(f"file://{source}", target)


def test_with_sums_every_file_counts(source: Path, target: Path) -> None:
    required = write_sums(source)
    done = fetch(f"file://{source}", target, sums_sha256=required)
    assert done.models == ("alpha", "beta")
    canary = source / "alpha" / "canary.npz"
    canary.write_bytes(canary.read_bytes() + b"\0")
    fresh = target.with_name("fresh")
    with pytest.raises(ArtefactRefused, match=r"alpha/canary\.npz: corrupt"):
        fetch(f"file://{source}", fresh, sums_sha256=required)
    write_sums(source)
    with pytest.raises(ArtefactRefused, match="is required"):
        fetch(f"file://{source}", target, sums_sha256=required)
    (source / "alpha" / "added.py").write_text("import os")
    with pytest.raises(ArtefactRefused, match=rf"alpha/added\.py: not listed in {SUMS}"):
        fetch(f"file://{source}", target)


def test_required_sums_must_be_there(source: Path, target: Path) -> None:
    with pytest.raises(ArtefactRefused, match=f"has no {SUMS}"):
        fetch(f"file://{source}", target, sums_sha256="0" * 64)


def test_sums_that_are_not_sums_are_refused_with_the_line(source: Path, target: Path) -> None:
    (source / SUMS).write_text(f"{'0' * 64}  a\nhello\n")
    with pytest.raises(ArtefactRefused, match=rf"{SUMS}, line 2"):
        fetch(f"file://{source}", target)


def test_a_folder_that_holds_something_else_is_left_alone(source: Path, target: Path) -> None:
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"'thesis\.tex', which was not fetched"):
        fetch(f"file://{source}", target)
    assert contents(target) == {"thesis.tex": b"years of work"}


def test_a_volume_of_its_own_is_an_empty_folder(source: Path, target: Path) -> None:
    (target / "lost+found").mkdir(parents=True)
    assert fetch(f"file://{source}", target).models == ("alpha", "beta")
    assert (target / "lost+found").is_dir()


def test_names_that_lead_out_of_the_repository_are_refused(source: Path, target: Path) -> None:
    objects = {f"models/{name}": body for name, body in contents(source).items()}
    with bucket("store", {**objects, "models/alpha\\..\\x": b"x"}, key_id="") as endpoint:
        options = {"endpoint": endpoint, "client_options": {"allow_http": True}, "skip_signature": True}
        with pytest.raises(FetchFailed):  # unsigned: what the store says is passed on
            fetch("s3://store/models", target, options=options)
        options |= {"skip_signature": False, "access_key_id": "x", "secret_access_key": "y", "region": "r"}
    with (
        bucket("store", {**objects, "models/alpha\\..\\x": b"x"}, key_id="x") as endpoint,
        pytest.raises(ArtefactRefused, match="leads out of the repository"),
    ):
        fetch("s3://store/models", target, options={**options, "endpoint": endpoint})
    assert contents(target) == {}


def test_work_in_progress_is_left_out(source: Path, target: Path) -> None:
    (source / "alpha" / "variants" / ".new.123").mkdir()
    (source / "alpha" / "variants" / ".new.123" / "model.onnx").write_text("half")
    fetch(f"file://{source}", target)
    assert not (target / "alpha" / "variants" / ".new.123").exists()


@pytest.mark.parametrize(
    ("url", "error", "why"),
    [
        ("/srv/models", ConfigError, "not a URL; such as s3://"),
        ("nosuch://bucket", ConfigError, "nosuch"),
        ("memory://nothing/here", FetchFailed, "no model here|not there"),
        ("file:///nowhere/at/all", FetchFailed, "no model here|not there"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(url: str, error: type[Exception], why: str, target: Path) -> None:
    with pytest.raises(error, match=why):
        fetch(url, target)


def test_secrets_in_a_url_are_not_repeated(target: Path) -> None:
    with pytest.raises((FetchFailed, ConfigError)) as caught:
        fetch("nosuch://user:hunter2@host/models?token=hunter2", target)
    assert "hunter2" not in str(caught.value)
