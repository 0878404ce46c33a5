"""`/admin/v1` and `/ui`: a raw ASGI application over the control loop. What there is to call is in `operations`."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from server import errors
from server.admin import gate, openapi
from server.admin.bodies import NoQuery
from server.admin.control import Control
from server.admin.events import Hub, event
from server.admin.operations import OPERATIONS, Call, Operation
from server.admin.reload import Reloader
from server.admin.requests import Headers, answer, read_body, read_nothing, read_query
from server.auth import Authenticator, Caller, Role, Unauthenticated, header
from server.models import product_version
from variants.errors import RequestError

log = logging.getLogger("trimtab.admin")
NO_STORE = (b"cache-control", b"no-store")
#: Where a client certificate's common name is in the ASGI scope (`server.admin.listener` puts it there).
CERTIFICATE = "trimtab.certificate"


class NotFound(RequestError):
    """Nothing is at this path."""


class AdminApp:
    """See the module. `authenticator` None: everyone may do everything. `local_only`: nobody is authenticated and only
    this machine may call. `page`: the operations page, an ASGI application for `/ui` and below."""

    def __init__(
        self,
        control: Control,
        reloader: Reloader,
        *,
        authenticator: Authenticator | None = None,
        local_only: bool = True,
        tls: bool = False,
        page: Any = None,
        hub: Hub | None = None,
    ) -> None:
        self._control = control
        self._reloader = reloader
        self._authenticator = authenticator
        self._local_only = local_only and authenticator is None
        self._tls = tls
        self._page = page
        self._description = openapi.document(product_version())
        self.hub = hub or Hub()
        control.listen(self.hub.publish)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        send = gate.guarded(send, tls=self._tls)
        headers: Headers = [NO_STORE]
        status, content = 500, {"error": errors.INTERNAL}
        try:
            gate.check_browser(scope, local_only=self._local_only)
            done = await self._route(scope, receive, send, headers)
            if done is None:
                return
            status, content = done
        except RequestError as error:
            status, content = errors.http_status(error), {"error": str(error)}
            if isinstance(error, NotFound):
                status = 404
            if isinstance(error, MethodNotAllowed):
                status = 405
                headers.append((b"allow", error.allowed.encode()))
            if isinstance(error, Unauthenticated):
                headers.append((b"www-authenticate", b'Bearer realm="trimtab"'))
            if after := errors.retry_after(error):
                headers.append((b"retry-after", after.encode()))
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
        await answer(send, status, content, headers)

    async def _route(self, scope: Any, receive: Any, send: Any, headers: Headers) -> tuple[int, Any] | None:
        """Status and content of an answer, or None when it has been sent."""
        path = scope["path"]
        if path == "/" and self._page is not None:
            headers.append((b"location", b"ui/"))
            return 307, {"error": "the operations page is at /ui/"}
        if path == "/ui" or path.startswith("/ui/"):
            if self._page is None:
                raise NotFound("the operations page is not installed")
            await self._page(scope, receive, send)
            return None
        if not path.startswith(openapi.PREFIX):
            raise NotFound(f"nothing is at {path[:200]!r}; there is {openapi.PREFIX} and /ui/")
        # Split before unquoting: a name may hold an escaped slash.
        raw = scope.get("raw_path") or path.encode()
        parts = [unquote(p) for p in raw.partition(b"?")[0].decode("latin-1").removeprefix(openapi.PREFIX).split("/")]
        if parts in (["events"], ["openapi.json"]):
            if scope["method"] != "GET":
                raise MethodNotAllowed(scope["method"], ["GET"])
            if parts == ["openapi.json"]:
                self._admit(scope, "infer", "read", "operate")
                read_query(scope, NoQuery)
                return 200, self._description
            if caller := self._admit(scope, "read"):
                caller.check_scope(None)
            read_query(scope, NoQuery)
            await self.hub.serve(receive, send, event("status", self._control.status()))
            return None
        operation, name = find(scope["method"], parts)
        call = await self._understand(operation, name, scope, receive)
        return operation.status, await operation.run(call)

    async def _understand(self, operation: Operation, name: str, scope: Any, receive: Any) -> Call:
        """Who calls is settled before anything of the request is read; which model it is about is known only afterwards."""
        caller = self._admit(scope, operation.role)
        query = read_query(scope, operation.query)
        body = None
        if operation.body is not None:
            body = await read_body(scope, receive, operation.body)
        else:
            await read_nothing(receive)
        call = Call(self._control, self._reloader, name, query, body)
        if caller is not None:
            caller.check_scope(call.model)
        return call

    def _admit(self, scope: Any, *roles: Role) -> Caller | None:
        """The caller, or None when nobody is asked who they are."""
        if self._authenticator is None:
            return None
        caller = self._authenticator.caller(header(scope["headers"], b"authorization"), scope.get(CERTIFICATE))
        caller.admit(*roles, now=self._authenticator.now())
        return caller


class MethodNotAllowed(RequestError):
    """The path is there, but not for this method."""

    def __init__(self, method: str, allowed: Iterable[str]) -> None:
        self.allowed = ", ".join(sorted(allowed))
        super().__init__(f"{method} is not allowed here; use {self.allowed}")


def find(method: str, parts: list[str]) -> tuple[Operation, str]:
    """The operation at a path below `/admin/v1/`, and what stands for `{name}` in it. Raises NotFound, MethodNotAllowed."""
    allowed = []
    for operation in OPERATIONS:
        pattern = operation.path.split("/")
        if len(pattern) != len(parts) or any(p not in ("{name}", g) for p, g in zip(pattern, parts, strict=True)):
            continue
        if operation.method == method:
            return operation, next((g for p, g in zip(pattern, parts, strict=True) if p == "{name}"), "")
        allowed.append(operation.method)
    if allowed:
        raise MethodNotAllowed(method, allowed)
    known = ", ".join(dict.fromkeys(o.path.partition("/")[0] for o in OPERATIONS))
    raise NotFound(f"nothing is at {'/'.join(parts)[:200]!r}; {openapi.PREFIX} has {known}, events, openapi.json")
