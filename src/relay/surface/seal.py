"""The second lock: start-up walks every route and refuses what is not declared."""

from collections.abc import Iterator
from typing import Any, Protocol

from fastapi.routing import iter_route_contexts
from starlette.routing import BaseRoute

from relay.surface.declare import Admit, GuardedRoute


class SealedApp(Protocol):
    """An application that can say whether somebody gave it a way to answer beside its routes."""

    @property
    def routes(self) -> list[BaseRoute]: ...

    user_middleware: list[Any]

    def exception_handlers_changed(self) -> bool: ...


class Unsealed(RuntimeError):
    """The application has a way in that does not lead through ``admit``."""


def seal(app: SealedApp, admit: Admit) -> tuple[GuardedRoute, ...]:
    """Return the routes when every one of them is declared and guarded by this very ``admit``.

    :class:`Unsealed` names the first that is not: a plain route, a mount, a static folder, a websocket, an included
    router, middleware that could answer by itself, or a declared route whose guard was replaced.
    """
    if app.user_middleware or app.exception_handlers_changed():
        raise Unsealed("middleware or exception handlers could answer before admission")
    sealed: list[GuardedRoute] = []
    seen: set[tuple[str, str]] = set()
    for route in walk(app):
        if type(route) is not GuardedRoute:
            raise Unsealed(f"{getattr(route, 'path', route)!r} is a {type(route).__name__}, not a declared route")
        if route.admit is not admit or route.app != route.serve:
            raise Unsealed(f"{route.path} does not lead through the gate")
        for method in sorted(route.methods or ()):
            if (method, route.path_format) in seen:
                raise Unsealed(f"{method} {route.path} is declared twice")
            seen.add((method, route.path_format))
        sealed.append(route)
    return tuple(sealed)


def walk(app: SealedApp) -> Iterator[BaseRoute]:
    """Yield every route, those of included routers too (a loop over ``app.routes`` would not see them)."""
    for context in iter_route_contexts(app.routes):
        yield context.original_route
