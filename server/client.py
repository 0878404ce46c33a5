"""A client of `/admin/v1`, for the command line."""

from __future__ import annotations

from typing import Any

import httpx

from variants.errors import TrimtabError


class AdminError(TrimtabError):
    """The server refused or could not be reached; the message says which and why."""


class AdminClient:
    """Calls a server's admin API. All methods raise AdminError."""

    def __init__(self, url: str, *, timeout_seconds: float = 10.0) -> None:
        self._url = url.rstrip("/")
        self._timeout = timeout_seconds

    def status(self) -> dict[str, Any]:
        """The controller's status."""
        return self._call("GET", "status")

    def explain(self, model: str | None) -> dict[str, Any]:
        """Recent decisions and holds, of one model or all."""
        return self._call("GET", "explain", params={"model": model} if model else None)

    def pin(self, model: str, variant: str | None) -> dict[str, str | None]:
        """Pin a model to a variant (None: parked); all pins are returned."""
        return self._call("POST", "pin", json={"model": model, "variant": variant})

    def unpin(self, model: str) -> dict[str, str | None]:
        """Unpin a model; the remaining pins are returned."""
        return self._call("POST", "unpin", json={"model": model})

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        url = f"{self._url}/admin/v1/{path}"
        try:
            answer = httpx.request(method, url, timeout=self._timeout, trust_env=False, **options)
        except httpx.HTTPError as error:
            raise AdminError(f"{url}: {error}; is the server running there? (--url says where)") from error
        try:
            content = answer.json()
        except ValueError:
            raise AdminError(f"{url}: HTTP {answer.status_code}, not JSON: {answer.text[:200]}") from None
        if answer.status_code != httpx.codes.OK:
            raise AdminError(content.get("error", answer.text[:200]))
        return dict(content)
