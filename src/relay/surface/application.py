"""The ASGI application: FastAPI's router and OpenAPI inside, the stamp outside, nothing between."""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
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

    def exception_handlers_changed(self) -> bool:
        """Say whether anybody added an exception handler, which could answer with success."""
        return self.exception_handlers != self._initial_handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self.router(scope, receive, send)


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
