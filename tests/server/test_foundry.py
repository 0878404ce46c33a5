"""The foundry's commands on a small repository: what they print and write."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from server.cli import app
from server.foundry_report import page
from server.foundry_views import print_summary
from variants.build.pipeline import Summary
from variants.repository import load_catalog


@pytest.fixture
def models(affine_repository: Path, tmp_path: Path) -> Path:
    shutil.copytree(affine_repository, tmp_path / "models")
    return tmp_path / "models"


def test_ladder_draws_a_picture_beside_each_model(models: Path) -> None:
    done = CliRunner().invoke(app, ["ladder", str(models)])
    assert done.exit_code == 0, done.output
    assert (models / "alpha" / "ladder.png").is_file()
    assert (models / "beta" / "ladder.png").is_file()
    (models / "alpha" / "ladder.png").unlink()
    assert CliRunner().invoke(app, ["ladder", str(models / "alpha"), "--no-png"]).exit_code == 0
    assert not (models / "alpha" / "ladder.png").exists()


def test_the_report_needs_nothing_else(models: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["report", str(models), "-o", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r.html").read_text()
    assert text.count("data:image/png;base64,") == 2
    for name in ("alpha", "beta", "full", "lite", "broken", "not profiled"):
        assert name in text
    assert "http" not in text
    assert "src='data:" in text
    assert "beta" not in page(load_catalog(models), ["alpha"])


def test_names_in_the_report_are_text(models: Path) -> None:
    document = (models / "alpha" / "model.yaml").read_text()
    (models / "alpha" / "model.yaml").write_text(document.replace("task: regression", "task: '<b>x</b>'"))
    assert "&lt;b&gt;x&lt;/b&gt;" in page(load_catalog(models), ["alpha"])


def test_export_of_a_variant(models: Path, tmp_path: Path) -> None:
    target = tmp_path / "lite.onnx"
    done = CliRunner().invoke(app, ["export", str(models / "alpha"), "lite", "--to", "onnx", "-o", str(target)])
    assert done.exit_code == 0, done.output
    assert "away from lite in onnx's own runtime" in done.output
    assert target.read_bytes() == (models / "alpha" / "variants" / "lite" / "model.onnx").read_bytes()


def test_a_variant_that_cannot_run_here_does_not_stop_the_others(models: Path) -> None:
    folder = models / "alpha"
    record = folder / "variants" / "full" / "variant.json"
    record.write_text(record.read_text().replace('"engine": "openvino"', '"engine": "tensorrt_rtx"'))
    shutil.rmtree(folder / "variants" / "lite" / "profiles")
    shutil.rmtree(folder / "variants" / "full" / "profiles")
    reference = folder / "variants" / "lite" / "variant.json"
    reference.write_text(reference.read_text().replace('"parent": "full"', '"parent": null'))
    document = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(document.replace("- full\n- lite", "- lite\n- full"))
    done = CliRunner().invoke(app, ["profile", str(folder), "--threads", "1"])
    assert done.exit_code == 0, done.output
    assert "alpha: measured lite, broken" in done.output
    assert "alpha: cannot measure full: " in done.output
    assert "cannot measure full: alpha/full" not in done.output, "who it is, is said once"


def test_a_model_that_cannot_be_built_does_not_stop_the_others(models: Path) -> None:
    shutil.rmtree(models / "alpha" / "variants")
    document = (models / "beta" / "model.yaml").read_text()
    (models / "beta" / "model.yaml").write_text(document.replace("- full\n- lite", "- full"))
    for command, said in (("profile", "beta: measured broken"), ("advise", "trimtab search")):
        done = CliRunner().invoke(app, [command, str(models)])
        assert done.exit_code == 1
        assert "error: " in done.output
        assert "alpha" in done.output
        assert said in done.output
    (models / "alpha" / "model.yaml").write_text("name: alpha")
    done = CliRunner().invoke(app, ["build", str(models), "-t", "fp32"])
    assert done.exit_code == 1
    assert "alpha/model.yaml: task: Field required" in done.output
    assert "beta: failed fp32: " in done.output
    assert "model.onnx: no such file, which source.onnx in model.yaml names" in done.output


def test_what_an_error_says_is_no_markup() -> None:
    console = Console(width=200, file=io.StringIO())
    summary = Summary(["fp32"], {"a": "m: a: pip install 'trimtab[build]'"}, {"b": 'm: b: [/closed] "pad[mask]"'})
    print_summary(console, "m", summary)
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "m: built fp32",
        "m: skipped a: pip install 'trimtab[build]'",
        'm: failed b: [/closed] "pad[mask]"',
    ]
