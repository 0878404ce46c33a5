"""What Ray's raylet runs for each worker of an embedded cluster: Ray's own program, after Ray has been imported as
`deployments/lean.py` does.

    python worker.py PROGRAM ARGUMENTS...
"""

import runpy
import sys
from pathlib import Path


def main(command: list[str]) -> None:
    """Become the worker. COMMAND: Ray's program and its arguments."""
    sys.path[0] = str(Path(__file__).parent.parent)
    from deployments import later, lean

    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    for name in lean.NEVER:
        sys.modules[name] = None  # type: ignore[assignment]  # to `import`: not there
    sys.meta_path.insert(0, later.Finder(lean.LATER))
    lean.import_serve()
    runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
