"""The second lock: start-up walks every route and refuses what is not declared."""

import re
from typing import Final, Protocol

from starlette.routing import BaseRoute

from relay.limits.rules import misnamed
from relay.surface.declare import Admit, GuardedRoute

_PARAMETER: Final = re.compile(r"\{[^}]*\}")
_WAYS_IN: Final = frozenset({"serve", "handle", "matches", "__call__"})


class SealedApp(Protocol):
    """An application that can say whether somebody gave it a way to answer beside its routes."""

    @property
    def routes(self) -> list[BaseRoute]: ...

    def side_door(self) -> str | None: ...


class Unsealed(RuntimeError):
    """The application has a way in that does not lead through ``admit``."""


def seal(app: SealedApp, admit: Admit) -> tuple[GuardedRoute, ...]:
    """Return the routes when every one of them is declared and guarded by this very ``admit``.

    :class:`Unsealed` names the first that is not: a plain route, a mount, a static folder, a websocket, an included
    router (FastAPI would serve even a declared route in it by a handler of its own), middleware or another thing that
    could answer by itself, a declared route whose guard was replaced, one that names a limit which does not exist, or
    one that a door opens and that lies elsewhere than under the door's path.
    """
    if door := app.side_door():
        raise Unsealed(f"{door} could answer before admission")
    sealed: list[GuardedRoute] = []
    seen: set[tuple[str, str]] = set()
    for route in app.routes:
        if type(route) is not GuardedRoute:
            raise Unsealed(f"{getattr(route, 'path', route)!r} is a {type(route).__name__}, not a declared route")
        if route.admit is not admit or not _is_whole(route):
            raise Unsealed(f"{route.path} does not lead through the gate")
        if wrong := misnamed(route.access.limits):
            raise Unsealed(f"{route.path} {wrong}")
        for door in sorted(route.access.doors):
            if route.path_format.split("/")[1] != door:
                raise Unsealed(f"{route.path} is opened by the door {door!r} and does not lie under /{door}")
        for method in sorted(route.methods or ()):
            place = method, _PARAMETER.sub("{}", route.path_format)
            if place in seen:
                raise Unsealed(f"{method} {route.path} is declared twice")
            seen.add(place)
        sealed.append(route)
    return tuple(sealed)


def _is_whole(route: GuardedRoute) -> bool:
    """Say whether a request to the route arrives at the class's own ``serve``, by no way of this one object's own."""
    function = getattr(route.app, "__func__", None)
    return (
        function is GuardedRoute.serve
        and getattr(route.app, "__self__", None) is route
        and not _WAYS_IN & vars(route).keys()
    )
