from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from variants.catalog import Lineage, Variant
from variants.device import fingerprint
from variants.errors import ArtefactRefused, ConfigError
from variants.repository import (
    compiled,
    load_catalog,
    load_model,
    read_canary,
    variant_folder,
    verify,
    write_canary,
    write_profile,
    write_variant,
)


@pytest.fixture
def root(affine_repository: Path, tmp_path: Path) -> Path:
    """A copy of the affine repository that a test may damage."""
    copy = tmp_path / "models"
    shutil.copytree(affine_repository, copy)
    return copy


def record(name: str = "new", artefact: str = "a.bin.txt") -> Variant:
    return Variant(name=name, engine="onnx", precision="fp32", artefact=artefact, lineage=Lineage(technique="test"))


def write(text: str) -> Any:
    def fill(folder: Path) -> None:
        (folder / "a.bin.txt").write_text(text)

    return fill


def test_the_catalog_has_models_variants_and_ladders(root: Path) -> None:
    catalog = load_catalog(root)
    assert set(catalog.entries) == {"alpha", "beta"}
    assert list(catalog.entries["alpha"].variants) == ["full", "lite", "broken"]
    assert catalog.entries["alpha"].ladder.rungs[0] == "full"
    assert catalog.refused == ()
    assert catalog.device == fingerprint()


def test_profiles_of_another_device_do_not_count(root: Path) -> None:
    elsewhere = load_catalog(root, device="another machine").entries["alpha"]
    assert elsewhere.variants["full"].profile("another machine") is None
    assert elsewhere.ladder.rungs == ("full", "lite", "broken")


def damage_a_byte(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[100] ^= 1
    (folder / "model.onnx").write_bytes(data)


def escape(folder: Path) -> None:
    document = json.loads((folder / "variant.json").read_text())
    document["files"]["../full/model.onnx"] = "0" * 64
    (folder / "variant.json").write_text(json.dumps(document))


def rename_inside(folder: Path) -> None:
    document = json.loads((folder / "variant.json").read_text())
    (folder / "variant.json").write_text(json.dumps({**document, "name": "other"}))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (damage_a_byte, "sha256"),
        (lambda f: (f / "model.onnx").unlink(), "cannot be read"),
        (lambda f: (f / "variant.json").unlink(), "half-written"),
        (lambda f: (f / "variant.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "variant.json").write_text("{}"), "engine"),
        (escape, "outside"),
        (rename_inside, "other"),
    ],
)
def test_a_broken_variant_is_refused_and_the_others_load(root: Path, harm: Any, words: str) -> None:
    folder = variant_folder(root / "alpha", "lite")
    harm(folder)
    catalog = load_catalog(root)
    assert list(catalog.entries["alpha"].variants) == ["full", "broken"]
    assert set(catalog.entries["beta"].variants) == {"full", "lite", "broken"}
    (refused,) = catalog.refused
    assert (refused.model, refused.variant, refused.path) == ("alpha", "lite", str(folder))
    assert words in refused.reason


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "gamma"}, "gamma"),
        ({"source": {}}, "exactly one"),
        ({"source": {"onnx": "a", "factory": "b:c"}}, "exactly one"),
        ({"metric": "bleu"}, "metric"),
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "x", "datatype": "FP31", "shape": [1]}]}, "datatype"),
        ({"max_batch": 0}, "max_batch"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_model_file_names_file_and_field(root: Path, change: dict[str, Any], words: str) -> None:
    path = root / "alpha" / "model.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **change}))
    with pytest.raises(ConfigError) as raised:
        load_model(root / "alpha")
    assert words in str(raised.value)
    assert "model.yaml" in str(raised.value)
    catalog = load_catalog(root)
    assert set(catalog.entries) == {"beta"}
    assert catalog.refused[0].variant is None


def test_a_repository_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        load_catalog(tmp_path / "nothing")


def test_what_can_run_code_needs_trust(root: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a.pt").write_bytes(pickle.dumps({}))

    write_variant(root / "alpha", record("danger", "a.pt"), fill)
    catalog = load_catalog(root)
    assert "danger" not in catalog.entries["alpha"].variants
    assert "trust: true" in catalog.refused[0].reason
    path = root / "alpha" / "model.yaml"
    path.write_text(path.read_text() + "trust: true\n")
    assert "danger" in load_catalog(root).entries["alpha"].variants


def test_a_builder_that_fails_leaves_nothing(root: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "a.bin.txt").write_text("half")
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        write_variant(root / "alpha", record(), fill)
    with pytest.raises(ArtefactRefused, match="did not write"):
        write_variant(root / "alpha", record(), lambda folder: None)
    assert sorted(p.name for p in (root / "alpha" / "variants").iterdir()) == ["broken", "full", "lite"]


def test_a_variant_is_replaced_at_once(root: Path) -> None:
    stored = write_variant(root / "alpha", record(), write("one"))
    verify(variant_folder(root / "alpha", "new"), stored)
    write_variant(root / "alpha", record(), write("two"))
    assert (variant_folder(root / "alpha", "new") / "a.bin.txt").read_text() == "two"
    with pytest.raises(ArtefactRefused, match="corrupt"):
        verify(variant_folder(root / "alpha", "new"), stored)


def test_a_dead_writers_leftovers_are_cleared_and_what_it_took_away_is_put_back(root: Path) -> None:
    variants = root / "alpha" / "variants"
    dead = 2**22 + 7  # beyond the largest pid
    (variants / f".half.xyz.{dead}").mkdir()
    (variants / "lite").rename(variants / f".lite.old.{dead}")
    alive = variants / f".mine.xyz.{os.getpid()}"
    alive.mkdir()
    write_variant(root / "alpha", record(), write("one"))
    assert sorted(p.name for p in variants.iterdir()) == [alive.name, "broken", "full", "lite", "new"]
    assert "lite" in load_catalog(root).entries["alpha"].variants


def test_canaries(tmp_path: Path) -> None:
    assert read_canary(tmp_path) is None
    inputs, outputs = {"x": np.arange(4.0)}, {"y": np.eye(2)}
    write_canary(tmp_path, inputs, outputs)
    found = read_canary(tmp_path)
    assert found is not None
    assert np.array_equal(found[0]["x"], inputs["x"])
    assert np.array_equal(found[1]["y"], outputs["y"])
    (tmp_path / "canary.npz").write_bytes(b"garbage")
    with pytest.raises(ArtefactRefused, match=r"canary\.npz"):
        read_canary(tmp_path)


def test_what_an_engine_compiled_is_kept_beside_the_profile_and_checked(root: Path) -> None:
    entry = load_catalog(root).entries["alpha"]
    name, folder = next(iter(entry.variants)), Path(entry.path)
    profile = entry.variants[name].profile(fingerprint())
    assert profile is not None
    assert compiled(folder / "variants" / name, profile) is None

    def stored() -> Path | None:
        return compiled(
            folder / "variants" / name, load_catalog(root).entries["alpha"].variants[name].profile(fingerprint())
        )

    write_profile(folder, name, profile, b"made of it")
    path = stored()
    assert path is not None
    assert path.read_bytes() == b"made of it"
    path.write_bytes(b"damaged...")
    assert stored() is None
    path.unlink()
    assert stored() is None
    write_profile(folder, name, profile, b"made of it")
    write_profile(folder, name, profile)  # measured anew, with nothing to keep
    assert stored() is None
    assert not path.exists()


def test_the_reference_comes_first_wherever_build_names_it(affine_repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(affine_repository, root)
    document = yaml.safe_load((root / "alpha" / "model.yaml").read_text())
    for build in (["lite"], ["lite", "full"]):
        (root / "alpha" / "model.yaml").write_text(yaml.safe_dump({**document, "build": build}))
        assert list(load_catalog(root).entries["alpha"].variants)[:2] == ["full", "lite"]


def test_top1_needs_classes_in_the_first_output(affine_repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(affine_repository, root)
    path = root / "alpha" / "model.yaml"
    document = yaml.safe_load(path.read_text()) | {"metric": "top1"}
    score = {"name": "y", "datatype": "FP32", "shape": [-1]}
    path.write_text(yaml.safe_dump({**document, "outputs": [score]}))
    with pytest.raises(
        ConfigError, match="metric top1: the first output, y, must be scores with a last axis of classes"
    ):
        load_model(root / "alpha")
    path.write_text(yaml.safe_dump({**document, "outputs": [{**score, "datatype": "INT64"}]}))
    assert load_model(root / "alpha").metric == "top1"
