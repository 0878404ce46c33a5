"""Whether the server of a configuration file answers: `python -m server.alive CONFIG`, for a container's health check.

Exit status 0, or 1 with the reason. It imports little: it runs every few seconds beside the server.
"""

from __future__ import annotations

import ssl
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import yaml

SECONDS = 4.0
PORT = 8000


def url_of(config: Path) -> str:
    """Where it says that it is alive, seen from its own machine. Raises OSError, ValueError."""
    read = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
    server = (read.get("server") or {}) if isinstance(read, dict) else {}
    host = str(server.get("host") or "127.0.0.1")
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104 (compared, not bound)
    address = f"[{reached}]" if ":" in reached else reached
    return f"{'https' if server.get('tls') else 'http'}://{address}:{server.get('http_port') or PORT}/v2/health/live"


def main(arguments: Sequence[str]) -> int:
    """See the module."""
    # Our own server on our own machine, whatever name its certificate is for.
    context = ssl._create_unverified_context()  # nosec B323
    try:
        with urllib.request.urlopen(url_of(Path(arguments[0])), timeout=SECONDS, context=context):  # nosec B310
            return 0
    except (OSError, ValueError, yaml.YAMLError) as error:
        print(f"{arguments[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
