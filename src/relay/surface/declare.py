"""The first lock: every route declares its access, and its class runs ``admit`` before the body is parsed.

FastAPI keeps what it is good at, matching and OpenAPI; its per-request dependency machinery is not used. An endpoint
takes ``call`` and, by name, ``body`` (a model), ``query`` (a model) and the path's parameters as text.
"""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Annotated, Any, Final, Protocol, TypeVar, get_args, get_origin, get_type_hints

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from relay.core.access import Access
from relay.core.admission import Admission
from relay.core.facts import RequestFacts
from relay.core.principal import Principal
from relay.core.problem import BadRequest, BadSignature, NotFound, Unauthenticated
from relay.core.signed import Evidence, Signed
from relay.core.validation import validated
from relay.surface.answers import send_json
from relay.surface.body import read_as, read_body
from relay.surface.room import MIB, Room
from relay.surface.stamp import ADMISSION, FACTS

MAX_PATH_PARAMETER: Final = 200
BODY_ROOM: Final = 96 * MIB
Endpoint = Callable[..., Awaitable[BaseModel | Response]]
F = TypeVar("F", bound=Endpoint)


class UndeclaredRoute(TypeError):
    """A route was declared wrongly; raised while the application is built, never at a request."""


class Admit(Protocol):
    """The gate's door. It returns an admission or raises a problem; it reads the body for a signature alone."""

    async def __call__(self, access: Access, facts: RequestFacts, evidence: Evidence | None = None) -> Admission: ...


class Call(Request):
    """An admitted request as an endpoint sees it."""

    @property
    def facts(self) -> RequestFacts:
        """The request as the outermost layer saw it."""
        facts: RequestFacts = self.scope[FACTS]
        return facts

    @property
    def principal(self) -> Principal:
        """The caller; 401 on a route that admits the public, so that a handler cannot forget the difference."""
        admission: Admission = self.scope[ADMISSION]
        if admission.principal is None:
            raise Unauthenticated(reason="missing_token")
        return admission.principal

    @property
    def signed(self) -> Signed:
        """The body whose signature admitted this request; 401 on every other route."""
        admission: Admission = self.scope[ADMISSION]
        if admission.signed is None:
            raise BadSignature(reason="signature_missing")
        return admission.signed

    @property
    def request_id(self) -> str:
        """The id that the answer and every audit event of this request carry."""
        return self.facts.request_id

    @property
    def caller(self) -> str:
        """The caller's address as text; empty when unknown."""
        return self.facts.client


class GuardedRoute(APIRoute):
    """A declared route. Nothing of a request is parsed, nor its body read but for a signature, before ``admit``."""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        access: Access,
        admit: Admit,
        body_limit: int,
        body_seconds: float,
        room: Room | None = None,
        **options: Any,
    ) -> None:
        self.access = access
        self.admit = admit
        self.body_limit = body_limit
        self._body_seconds = body_seconds
        self._room = room or Room(BODY_ROOM)
        self._body, self._query, self._names = _parameters(path, endpoint)
        if access.auth == "signature" and self._body is not None:
            raise UndeclaredRoute(f"{path}: what was signed is call.signed; the body cannot be read again")
        super().__init__(path, endpoint, **options)
        self._status = self.status_code or 200
        self.app = self.serve

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Admit, read, validate, call, answer."""
        facts: RequestFacts = scope[FACTS]
        facts.route = self.path_format
        scope[ADMISSION] = await self._admitted(scope, facts, receive)
        call = Call(scope, receive, send)
        # Nothing here keeps the body: how long it stays in memory is the endpoint's to say.
        answer = await self.endpoint(call, **await self._arguments(call, facts, receive))
        if isinstance(answer, Response):
            await answer(scope, receive, send)
            return
        await send_json(send, self._status, answer.__pydantic_serializer__.to_json(answer))

    async def _arguments(self, call: Call, facts: RequestFacts, receive: Receive) -> dict[str, Any]:
        arguments: dict[str, Any] = {name: _path_parameter(call.scope, name) for name in self._names}
        if self._query is not None:
            arguments["query"] = validated(self._query, _query_of(call))
        if self._body is not None:
            read = partial(validated, self._body)
            arguments["body"] = await read_as(read, facts, receive, self.body_limit, self._body_seconds, self._room)
        return arguments

    async def _admitted(self, scope: Scope, facts: RequestFacts, receive: Receive) -> Admission:
        if self.access.auth != "signature":
            return await self.admit(self.access, facts)
        read = partial(read_body, facts, receive, self.body_limit, self._body_seconds)
        return await self.admit(self.access, facts, Evidence(scope["path_params"], read))


def _path_parameter(scope: Scope, name: str) -> str:
    value: str = scope["path_params"][name]
    if len(value) > MAX_PATH_PARAMETER or "\0" in value:  # no id is like that, and PostgreSQL takes no NUL in text
        raise NotFound("There is nothing at this path.")
    return value


def _query_of(call: Call) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in call.query_params.multi_items():
        if name in found:
            raise BadRequest("A query parameter may be given once.")
        found[name] = value
    return found


def _parameters(
    path: str, endpoint: Endpoint
) -> tuple[type[BaseModel] | None, type[BaseModel] | None, tuple[str, ...]]:
    """Return the body model, the query model and the names of the path's parameters, or :class:`UndeclaredRoute`."""
    hints = get_type_hints(endpoint, include_extras=True)
    names = list(inspect.signature(endpoint).parameters)
    if not inspect.iscoroutinefunction(endpoint) or not names or hints.get(names[0]) is not Call:
        raise UndeclaredRoute(f"{path}: an endpoint is an async function whose first parameter is a Call")
    body = query = None
    rest = []
    for name in names[1:]:
        kind = hints.get(name)
        if name == "body":
            body = _model(path, name, kind)
        elif name == "query":
            query = _model(path, name, get_args(kind)[0] if get_origin(kind) is Annotated else kind)
        elif kind is str and "{" + name + "}" in path:
            rest.append(name)
        else:
            raise UndeclaredRoute(f"{path}: {name} is neither body, query nor a text in the path")
    return body, query, tuple(rest)


def _model(path: str, name: str, kind: Any) -> type[BaseModel]:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)) or kind.model_config.get("extra") != "forbid":
        raise UndeclaredRoute(f"{path}: {name} must be a pydantic model that forbids unknown members")
    return kind


class Routes:
    """A group of declared routes, made before there is an application to mount them on."""

    def __init__(self) -> None:
        self._declared: list[tuple[str, str, Endpoint, Access, int | None, dict[str, Any]]] = []

    def get(self, path: str, *, access: Access, **options: Any) -> Callable[[F], F]:
        """Declare a GET route."""
        return self._declare("GET", path, access, None, options)

    def post(self, path: str, *, access: Access, body_limit: int | None = None, **options: Any) -> Callable[[F], F]:
        """Declare a POST route; ``body_limit`` in bytes replaces the installation's."""
        return self._declare("POST", path, access, body_limit, options)

    def put(self, path: str, *, access: Access, body_limit: int | None = None, **options: Any) -> Callable[[F], F]:
        """Declare a PUT route; ``body_limit`` in bytes replaces the installation's."""
        return self._declare("PUT", path, access, body_limit, options)

    def patch(self, path: str, *, access: Access, body_limit: int | None = None, **options: Any) -> Callable[[F], F]:
        """Declare a PATCH route; ``body_limit`` in bytes replaces the installation's."""
        return self._declare("PATCH", path, access, body_limit, options)

    def delete(self, path: str, *, access: Access, **options: Any) -> Callable[[F], F]:
        """Declare a DELETE route."""
        return self._declare("DELETE", path, access, None, options)

    def _declare(
        self, method: str, path: str, access: Access, body_limit: int | None, options: dict[str, Any]
    ) -> Callable[[F], F]:
        def declare(endpoint: F) -> F:
            self._declared.append((method, path, endpoint, access, body_limit, options))
            return endpoint

        return declare

    def mount(self, app: FastAPI, admit: Admit, *, body_limit: int, body_seconds: float, room: Room) -> None:
        """Add every route to ``app``. ``body_limit`` (bytes) holds where a route names none of its own.

        ``room`` is what large bodies of all routes share.
        """
        for method, path, endpoint, access, own_limit, options in self._declared:
            route = GuardedRoute(
                path,
                endpoint,
                access=access,
                admit=admit,
                body_limit=own_limit or body_limit,
                body_seconds=body_seconds,
                room=room,
                methods=[method],
                tags=[path.split("/")[1] or "root"],
                **options,
            )
            app.router.routes.append(route)
