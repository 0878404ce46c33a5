"""A client of `/admin/v1`, for the command line."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import quote

import httpx

from variants.errors import TrimtabError


class AdminError(TrimtabError):
    """The server refused or could not be reached; the message says which and why."""


class AdminClient:
    """Calls a server's admin API. `ca_file`: what to check the server's certificate with (default: the system's). All
    methods raise AdminError; what they return is described by the server's `/admin/v1/openapi.json`."""

    def __init__(
        self, url: str, *, token: str | None = None, ca_file: str | None = None, timeout_seconds: float = 30.0
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout_seconds
        try:
            self._verify: ssl.SSLContext | bool = (
                True if ca_file is None else ssl.create_default_context(cafile=ca_file)
            )
        except OSError as error:
            raise AdminError(f"{ca_file}: {error.strerror or error}") from error

    def get(self, path: str, **query: Any) -> Any:
        """`GET /admin/v1/<path>`; query fields that are None are left out."""
        return self._call("GET", path, params={k: v for k, v in query.items() if v is not None})

    def post(self, path: str, **body: Any) -> Any:
        """`POST /admin/v1/<path>` with a JSON object, or without a body where no field is given."""
        return self._call("POST", path, **({"json": body} if body else {}))

    def change_budget(self, name: str, change: dict[str, Any]) -> Any:
        """Change a budget at run time; answers with the budget."""
        return self._call("PATCH", f"budgets/{quote(name, safe='')}", json=change)

    def reset_budget(self, name: str) -> Any:
        """Give a budget the file's values back; answers with the budget."""
        return self._call("DELETE", f"budgets/{quote(name, safe='')}")

    def _call(self, method: str, path: str, **options: Any) -> Any:
        url = f"{self._url}/admin/v1/{path}"
        try:
            answer = httpx.request(
                method,
                url,
                headers=self._headers,
                timeout=self._timeout,
                verify=self._verify,
                trust_env=False,
                **options,
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise AdminError(f"{url}: {error}; is the server's admin port there? (--url says where)") from error
        try:
            content = answer.json()
        except ValueError:
            raise AdminError(f"{url}: HTTP {answer.status_code}, not JSON: {answer.text[:200]}") from None
        if answer.is_error:
            raise AdminError(content.get("error", answer.text[:200]) if isinstance(content, dict) else str(content))
        return content
