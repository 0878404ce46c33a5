"""What a controller starts with when it starts again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from server.admin.reload import at_start
from server.settings import Settings, load_settings

RAM: dict[str, Any] = {"name": "ram", "resource": "ram", "limit": "3GiB"}


def written(file: Path, **more: Any) -> Settings:
    file.write_text(yaml.safe_dump({"repository": "models", "budgets": [RAM], **more}))
    return load_settings(file)


def test_it_starts_with_the_budgets_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.yaml"
    deployed = written(file)
    now = written(
        file, budgets=[{**RAM, "limit": "1GiB"}], models={"a": {"floor": 0.5, "batching": {"queue": 3}}}, replicas=2
    )
    started = at_start(deployed)
    assert started.budgets == now.budgets
    assert started.models["a"].floor == 0.5
    assert (started.replicas, started.models["a"].batching) == (1, None)  # what hosts are built from stays as deployed


def test_a_file_that_is_wrong_or_gone_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "trimtab.yaml"
    deployed = written(file)
    file.write_text("budgets: [")
    assert at_start(deployed) == deployed
    file.unlink()
    assert at_start(deployed) == deployed
    assert at_start(deployed.model_copy(update={"config_path": None})).budgets == deployed.budgets
