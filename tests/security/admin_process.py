"""The admin port over a made-up machine, in a process of its own: `admin_process.py FOLDER PORT`. Says `ready`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import yaml

from server.admin.service import AdminService
from server.settings import load_settings
from tests.server.admin_world import Rig, document


async def main(folder: Path, port: int) -> None:
    config = folder / "trimtab.yaml"
    limits = {"head_seconds": 1}
    config.write_text(yaml.safe_dump(document(folder, admin_port=port, limits=limits)))
    settings = load_settings(config)
    async with Rig(settings) as rig:
        await rig.until(lambda: rig.control.status()["at"] is not None)
        service = AdminService(settings, rig.control)
        await service.start()
        print("ready", flush=True)
        await asyncio.sleep(1500)


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
