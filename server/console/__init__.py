"""The operations page at `/ui`: static files, and the small app that serves them."""

from server.console.app import Console, ConsoleConfig

__all__ = ["Console", "ConsoleConfig"]
