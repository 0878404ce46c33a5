"""A model repository that someone else wrote: no file outside it is read, and no code in it runs in the server."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import parse_settings
from server.start import starting_assignment
from tests.conftest import add_affine_model
from variants.catalog import Lineage, Variant
from variants.data import load_data, resolve
from variants.errors import ConfigError
from variants.repository import load_catalog, write_variant


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    add_affine_model(root, "alpha")
    (tmp_path / "secret.npz").write_bytes(b"")
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')\n")
    return root


@pytest.mark.parametrize("where", ["../../evil.py:run", "../evil.py:run", "link.py:run"])
def test_code_outside_the_models_folder_is_not_run(repository: Path, where: str) -> None:
    (repository / "alpha" / "link.py").symlink_to("../../evil.py")
    with pytest.raises(ConfigError, match="is outside the model's folder"):
        resolve(repository / "alpha", where)


@pytest.mark.parametrize("where", ["../../secret.npz", "/etc/passwd.npz"])
def test_samples_outside_it_are_not_read(repository: Path, where: str) -> None:
    with pytest.raises(ConfigError, match="is outside the model's folder"):
        load_data(repository / "alpha", where)


@pytest.mark.parametrize("name", ["../beta", "a/b", ".hidden", "a\nb", ""])
def test_names_are_no_paths(repository: Path, name: str) -> None:
    path = repository / "alpha" / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "name": name}))
    catalog = load_catalog(repository)
    assert catalog.entries == {}
    assert "name" in catalog.refused[0].reason


def test_an_artefact_outside_its_folder_is_refused(repository: Path) -> None:
    full = repository / "alpha" / "variants" / "full"
    outside = repository.parent / "model.onnx"
    os.replace(full / "model.onnx", outside)
    (full / "model.onnx").symlink_to(outside)
    (reason,) = [r.reason for r in load_catalog(repository).refused if r.variant == "full"]
    assert "is outside the variant's folder" in reason


def torch_variant(folder: Path, files: dict[str, bytes], **changes: Any) -> None:
    record = Variant(
        name="torch",
        engine="torch",
        precision="fp32",
        artefact=next(iter(files)),
        lineage=Lineage(technique="torch"),
        **changes,
    )

    def fill(temporary: Path) -> None:
        for name, content in files.items():
            (temporary / name).write_bytes(content)

    write_variant(folder, record, fill)


def test_code_of_the_repository_runs_in_the_server_only_when_its_owner_says_so(
    repository: Path, tmp_path: Path
) -> None:
    torch_variant(repository / "alpha", {"weights.safetensors": b"x"}, options={"factory": "model.py:network"})
    document: dict[str, Any] = {"repository": str(repository), "controller": {"journal": str(tmp_path / "j.jsonl")}}
    _, notes = starting_assignment(parse_settings(document, base=tmp_path))
    (refused,) = [n for n in notes if "refused" in n]
    assert "model.py:network is Python that would run when it is loaded" in refused
    assert "trust_repository_code: true" in refused
    _, notes = starting_assignment(parse_settings({**document, "trust_repository_code": True}, base=tmp_path))
    assert not [n for n in notes if "refused" in n]


def test_a_model_cannot_declare_itself_trusted_to_the_server(repository: Path) -> None:
    torch_variant(repository / "alpha", {"weights.pt": pickle.dumps({})})
    path = repository / "alpha" / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "trust": True}))
    assert "torch" in load_catalog(repository).entries["alpha"].variants  # for build and profile
    (refused,) = load_catalog(repository, trust_code=False).refused
    assert "can run code when loaded" in refused.reason
