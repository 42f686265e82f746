"""The ASGI application: FastAPI's router and OpenAPI inside, the stamp outside, nothing between."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.routing import APIRouter
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from relay import __version__
from relay.core.access import Access
from relay.core.facts import RequestFacts
from relay.surface.declare import BODY_ROOM, Admit, GuardedRoute, Routes
from relay.surface.description import described
from relay.surface.edge import Edge
from relay.surface.observe import Observer
from relay.surface.room import Room
from relay.surface.seal import seal
from relay.surface.stamp import FACTS, Stamp

_NOWHERE: Final = Access("public", frozenset(), (), "api:nowhere:read")
_NO_TELEMETRY: Final[TelemetryConfig] = {"tracing": False, "metrics": False}


class RelayApp(FastAPI):
    """FastAPI without its middleware: the stamp is the one place where exceptions become answers.

    ``admit`` is asked for paths that no route has, too, so that searching for them is limited like everything else.
    """

    def __init__(self, admit: Admit, **options: Any) -> None:
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
        self._admit = admit
        self._direct: dict[tuple[str, str], GuardedRoute] = {}
        self._plain: dict[str, frozenset[str]] = {}

    def openapi(self) -> dict[str, Any]:
        """Return the description of every route, made once."""
        if self.openapi_schema is None:
            routes = [route for route in self.routes if isinstance(route, GuardedRoute)]
            self.openapi_schema = described(super().openapi(), routes)
        return self.openapi_schema

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
        route = self._direct.get((scope["method"], scope["path"])) if not scope.get("root_path") else None
        if route is not None:
            scope["path_params"] = {}
            await route.serve(scope, receive, send)
            return
        if (methods := self._plain.get(scope["path"])) is not None and not scope.get("root_path"):
            # The router would go on to a route whose parameter this path could be.
            await self.count(scope[FACTS])
            raise HTTPException(405, headers={"Allow": ", ".join(sorted(methods))})
        try:
            await self.router(scope, receive, send)
        except HTTPException as error:
            await self.count(scope[FACTS])
            if error.status_code == 405 and "route" in scope:
                error.headers = {"Allow": ", ".join(self._methods(scope["route"].path_format))}
            raise

    def lead_directly(self, sealed: Iterable[GuardedRoute]) -> None:
        """Spare requests for sealed routes without parameters the router, which tries one route after the other."""
        self._direct = {
            (method, route.path): route
            for route in sealed
            if not route.param_convertors
            for method in route.methods or ()
        }
        self._plain = {path: frozenset(m for m, of in self._direct if of == path) for _, path in self._direct}

    async def count(self, facts: RequestFacts) -> None:
        """Count a request that no route will see; 429 when its address has had enough."""
        await self._admit(_NOWHERE, facts)

    def declared(self, path: str) -> frozenset[str]:
        """Return the methods that are declared for a path; none where there is no route."""
        if path in self._plain:
            return self._plain[path]
        found: set[str] = set()
        for route in self.routes:
            if isinstance(route, GuardedRoute) and route.path_regex.match(path):
                found |= route.methods or set()
        return frozenset(found)

    def _methods(self, path_format: str) -> list[str]:
        """Return the methods of every route of a path: the router itself names those of the first one only."""
        found: set[str] = set()
        for route in self.routes:
            if getattr(route, "path_format", None) == path_format:
                found |= getattr(route, "methods", None) or set()
        return sorted(found)


def build_application(
    groups: Iterable[Routes],
    admit: Admit,
    *,
    body_limit: int,
    body_seconds: float,
    edge: Edge | None = None,
    observers: Sequence[Observer] = (),
) -> tuple[RelayApp, ASGIApp]:
    """Return the FastAPI application (for OpenAPI) and the sealed, stamped one that a server may serve.

    :class:`~relay.surface.seal.Unsealed` when a way in is not guarded. Without an ``edge`` only requests of this very
    machine are served. ``observers`` are told of every request that the application sees.
    """
    app, room = RelayApp(admit), Room(BODY_ROOM)
    for group in groups:
        group.mount(app, admit, body_limit=body_limit, body_seconds=body_seconds, room=room)
    app.lead_directly(seal(app, admit))
    return app, Stamp(app, edge, app.declared, app.count, observers)
