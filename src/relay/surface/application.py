"""The ASGI application: FastAPI's router and OpenAPI inside, the stamp outside, nothing between."""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRouter
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from relay import __version__
from relay.surface.declare import Admit, Routes
from relay.surface.seal import seal
from relay.surface.stamp import Stamp

_NO_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False}


class RelayApp(FastAPI):
    """FastAPI without its middleware: the stamp is the one place where exceptions become answers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            title="Relay",
            version=__version__,
            openapi_url=None,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            telemetry=_NO_TELEMETRY,
            **options,
        )
        self._initial_handlers = dict(self.exception_handlers)

    def side_door(self) -> str | None:
        """Name what could answer a request without being a route; None when there is nothing of the kind."""
        router = self.router
        if type(router) is not APIRouter or router.default != router.not_found:
            return "another router, or its answer of last resort,"
        if self.user_middleware or router.middleware_stack != router.app:
            return "middleware"
        if self.exception_handlers != self._initial_handlers:
            return "an exception handler"
        # Where FastAPI keeps ``app.frontend(…)``; ``app.routes`` does not show it.
        return "a frontend folder" if router._low_priority_routes else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        try:
            await self.router(scope, receive, send)
        except HTTPException as error:
            if error.status_code == 405 and "route" in scope:
                error.headers = {"Allow": ", ".join(self._methods(scope["route"].path_format))}
            raise

    def _methods(self, path_format: str) -> list[str]:
        """Return the methods of every route of a path: the router itself names those of the first one only."""
        found: set[str] = set()
        for route in self.routes:
            if getattr(route, "path_format", None) == path_format:
                found |= getattr(route, "methods", None) or set()
        return sorted(found)


def build_application(
    groups: Iterable[Routes], admit: Admit, *, body_limit: int, body_seconds: float
) -> tuple[RelayApp, ASGIApp]:
    """Return the FastAPI application (for OpenAPI) and the sealed, stamped one that a server may serve.

    :class:`~relay.surface.seal.Unsealed` when a way in is not guarded.
    """
    app = RelayApp()
    for group in groups:
        group.mount(app, admit, body_limit=body_limit, body_seconds=body_seconds)
    seal(app, admit)
    return app, Stamp(app)
