"""The admin port of a control loop, put together from the settings."""

from __future__ import annotations

from pathlib import Path

from server.addresses import is_loopback
from server.admin.app import AdminApp
from server.admin.control import Control
from server.admin.listener import AdminListener
from server.admin.reload import Reloader
from server.auth import Authenticator
from server.console import Console
from server.settings import Settings


class AdminService:
    """Application, listener and the watch over the configuration file. Raises ConfigError for a tokens file or a
    certificate that cannot be used."""

    def __init__(self, settings: Settings, control: Control) -> None:
        server = settings.server
        tokens = server.auth.tokens_file
        self.reloader = Reloader(settings, control)
        self.app = AdminApp(
            control,
            self.reloader,
            authenticator=None if tokens is None else Authenticator(Path(tokens)),
            local_only=is_loopback(server.admin_address),
            tls=server.tls is not None,
            page=Console(settings.console),
        )
        self.listener = AdminListener(self.app, server)

    async def start(self) -> None:
        """Listen, and watch the file. Raises OSError when the port stays taken, ConfigError."""
        await self.listener.start()
        self.reloader.start()

    async def close(self) -> None:
        """Stop all of it."""
        await self.reloader.close()
        self.app.hub.close()
        await self.listener.close()
