"""Python environments beside the project's own, for what disagrees with its dependencies: made once, kept while wanted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def python(folder: Path, requirements: Sequence[str]) -> str:
    """The Python of the environment in that folder; made when it is not there or was made for other requirements.

    Raises subprocess.CalledProcessError when something cannot be installed; its `stderr` says what.
    """
    stamp, wanted = folder / "installed.txt", "\n".join(requirements)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {' '.join(requirements)} into {folder.parent.name}/{folder.name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements], check=True, stderr=subprocess.PIPE, text=True)
        stamp.write_text(wanted, encoding="utf-8")
    return str(folder / "bin" / "python")
