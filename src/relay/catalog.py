"""What actions exist, not how to reach the world: action specifications and their registry."""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final, get_args, get_type_hints

from pydantic import BaseModel

from relay.core.action import Effect, Step
from relay.core.exposed import NOTHING, Exposed
from relay.core.limit import Limit
from relay.core.permit import Permit, PermitRefused
from relay.core.principal import SCOPES, Scope

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(\.[a-z][a-z0-9_]*)+")

Handler = Callable[[Permit, Any, Any], Awaitable[BaseModel]]


class CatalogError(TypeError):
    """A connector or action was declared wrongly; raised at import, never at a request."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """What an action will really do, for the eyes of whoever approves it.

    ``summary`` is one sentence. ``body`` is plain JSON with secrets masked: the mail as it will be sent, the
    request as it will be made. ``warnings`` are sentences. ``refusal`` says why the gate must not run it at
    all (an address that egress refuses), else None.
    """

    summary: str
    body: dict[str, Any]
    warnings: tuple[str, ...] = ()
    refusal: str | None = None


Render = Callable[[Step, Any], Rendering]


@dataclass(frozen=True, slots=True)
class Probe:
    """How to learn the version of what a step changes: by another action, which takes the guarded path like any.

    ``version`` takes that action's result, as plain JSON, and returns the version or None when there is none to tell.
    """

    action: str
    params: dict[str, Any]
    version: Callable[[dict[str, Any]], str | None]


@dataclass(frozen=True, slots=True)
class ActionSpec:
    """An action of the catalogue.

    ``effect``: ``read`` changes nothing outside; ``write`` adds or changes; ``destructive`` cannot be undone.
    ``idempotent``: repeating it is harmless to the outside. ``redact`` returns the parameters as plain JSON with
    every secret masked, for answers and records. ``digest_form`` returns them as plain JSON for the digest, with
    attachments replaced by their SHA-256. ``timeout`` is in seconds and bounds the whole effect. ``local``: it has no
    client and reaches nothing outside, so that a crash takes its effect with it. ``limits`` and ``concurrency`` hold
    per workspace, whichever door an execution comes through: how often, and how many attempts at once (None: as many as
    may be).

    ``expose`` shows policy and budgets what they may speak of; ``exposed`` is the model it returns. ``irreversible``:
    nothing can take it back, so that the installation may hold it back for a while. ``probe`` says how to read the
    version of what a step changes; it returns None where there is no such thing. ``untrusted_result``: what it returns
    may hold what others have written, who must not be obeyed: a page, a mail, an answer. A ``honey`` action looks like
    any other and is never run: whoever asks for it loses the credential.
    """

    name: str
    version: int
    summary: str
    connector: str
    effect: Effect
    scope: Scope
    params: type[BaseModel]
    result: type[BaseModel]
    idempotent: bool
    local: bool
    untrusted_result: bool
    timeout: float
    limits: tuple[Limit, ...]
    concurrency: int | None
    render: Render
    redact: Callable[[Any], dict[str, Any]]
    digest_form: Callable[[Any], dict[str, Any]]
    expose: Callable[[Any], Exposed]
    exposed: type[Exposed]
    irreversible: bool
    probe: Callable[[Any], Probe | None]
    handler: Handler = field(repr=False)
    honey: bool = False

    def untrusted_outcome(self, status: str) -> bool:
        """Say whether what is told of an attempt that ended so may hold what others have written.

        The sentence about one that did not succeed may quote what the other side said, whatever its results hold.
        """
        return self.untrusted_result if status == "succeeded" else not self.local


def plain(params: BaseModel) -> dict[str, Any]:
    """Return parameters as plain JSON, defaults filled in: the redaction of an action that has no secrets."""
    return params.model_dump(mode="json")


def _shows_nothing(_: BaseModel) -> Exposed:
    return NOTHING


def _has_no_version(_: BaseModel) -> None:
    return None


class Connector:
    """A group of actions that reach one kind of place.

    ``hosts`` are the hosts that its client may reach; None means wherever the caller says, within egress. A ``local``
    connector gets no client at all and may declare reads only.
    """

    def __init__(self, name: str, *, hosts: frozenset[str] | None = frozenset(), local: bool = False) -> None:
        self.name = name
        self.hosts = hosts
        self.local = local
        self.actions: dict[str, ActionSpec] = {}

    def action(
        self,
        name: str,
        *,
        effect: Effect,
        render: Render,
        scope: Scope = "actions:execute",
        version: int = 1,
        idempotent: bool = False,
        timeout: float = 30.0,
        limits: tuple[Limit, ...] = (),
        concurrency: int | None = None,
        redact: Callable[[Any], dict[str, Any]] = plain,
        digest_form: Callable[[Any], dict[str, Any]] = plain,
        expose: Callable[[Any], Exposed] = _shows_nothing,
        irreversible: bool = False,
        probe: Callable[[Any], Probe | None] = _has_no_version,
        untrusted_result: bool | None = None,
        honey: bool = False,
    ) -> Callable[[Handler], Handler]:
        """Declare ``async def handler(permit, params: Model, client) -> Result`` as an action.

        The returned function redeems the permit before the handler's first line, so that calling it without a
        live one raises :class:`~relay.core.permit.PermitRefused`. :class:`CatalogError` for a duplicate or
        malformed name, an unknown effect or scope, untyped parameters or result, a missing summary, two limits over the
        same window, or a local action with a concurrency: it is recorded when it is over.

        ``untrusted_result`` is False only where the result holds nothing but facts of Relay's own, or what the caller
        has given; left out, it is True for every action that is not local.
        """

        def declare(handler: Handler) -> Handler:
            params, result = _types_of(name, handler)
            summary = (handler.__doc__ or "").strip().partition("\n")[0]
            if not _NAME.fullmatch(name) or name in self.actions:
                raise CatalogError(f"{name!r} is malformed or declared twice")
            if effect not in get_args(Effect) or scope not in SCOPES or not summary:
                raise CatalogError(f"{name} needs a known effect, a known scope and a one-line summary")
            if self.local and effect != "read":
                raise CatalogError(f"{name}: a local connector changes nothing, so its actions are reads")
            _check_limits(name, limits, concurrency, local=self.local)
            exposed = _exposed_by(name, expose)

            async def guarded(permit: Permit, params: Any, client: Any) -> BaseModel:
                if not isinstance(permit, Permit):
                    raise PermitRefused(f"{name} runs only with a permit")
                permit.redeem(name)
                return await handler(permit, params, client)

            self.actions[name] = ActionSpec(
                name=name,
                version=version,
                summary=summary,
                connector=self.name,
                effect=effect,
                scope=scope,
                params=params,
                result=result,
                idempotent=idempotent,
                local=self.local,
                untrusted_result=not self.local if untrusted_result is None else untrusted_result,
                timeout=timeout,
                limits=limits,
                concurrency=concurrency,
                render=render,
                redact=redact,
                digest_form=digest_form,
                expose=expose,
                exposed=exposed,
                irreversible=irreversible,
                probe=probe,
                handler=guarded,
                honey=honey,
            )
            return guarded

        return declare


def _check_limits(name: str, limits: tuple[Limit, ...], concurrency: int | None, *, local: bool) -> None:
    if len({limit.seconds for limit in limits}) != len(limits):
        raise CatalogError(f"{name} declares two limits over the same window")
    if concurrency is not None and (concurrency < 1 or local):
        raise CatalogError(f"{name}: a concurrency is at least 1, and a local action has none")


_EXPOSABLE: Final = (str, int, bool, frozenset[str])


def _exposed_by(name: str, expose: Callable[[Any], Exposed]) -> type[Exposed]:
    found = get_type_hints(expose).get("return")
    if not (isinstance(found, type) and issubclass(found, Exposed)):
        raise CatalogError(f"{name}: what it exposes must be declared as a model of Exposed")
    for field_name, info in found.model_fields.items():
        if info.annotation not in _EXPOSABLE:
            raise CatalogError(f"{name}: policies know no field like {field_name}")
    return found


def _types_of(name: str, handler: Handler) -> tuple[type[BaseModel], type[BaseModel]]:
    if not inspect.iscoroutinefunction(handler):
        raise CatalogError(f"{name} must be an async function")
    hints = get_type_hints(handler)
    names = list(inspect.signature(handler).parameters)
    if len(names) != 3:
        raise CatalogError(f"{name} must take permit, params and client")
    params, result = hints.get(names[1]), hints.get("return")
    for kind in (params, result):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            raise CatalogError(f"{name} needs pydantic models as its parameters and result")
    assert params is not None and result is not None
    if params.model_config.get("extra") != "forbid":
        raise CatalogError(f"{name}: parameters must forbid unknown fields")
    return params, result


class Catalog:
    """Every action of this installation, with the client its connector uses. Fixed once built."""

    def __init__(self) -> None:
        self._specs: dict[str, ActionSpec] = {}
        self._clients: dict[str, Any] = {}

    def register(self, connector: Connector, client: Any) -> None:
        """Add a connector's actions; :class:`CatalogError` for a name that exists, or a local connector's client."""
        if connector.local and client is not None:
            raise CatalogError(f"{connector.name} is local: it gets no client")
        for name, spec in connector.actions.items():
            if name in self._specs:
                raise CatalogError(f"two connectors declare {name}")
            self._specs[name] = spec
            self._clients[name] = client

    def limit(self, name: str, *, limits: tuple[Limit, ...] | None = None, concurrency: int | None = None) -> None:
        """Replace what an action declares; None leaves it. :class:`CatalogError` for an unknown one, or as at first."""
        spec = self._specs.get(name)
        if spec is None:
            raise CatalogError(f"there is no action {name!r}")
        limits = spec.limits if limits is None else limits
        concurrency = spec.concurrency if concurrency is None else concurrency
        _check_limits(name, limits, concurrency, local=spec.local)
        self._specs[name] = replace(spec, limits=limits, concurrency=concurrency)

    def get(self, name: str) -> ActionSpec | None:
        """Return the action of that name, or None."""
        return self._specs.get(name)

    def client(self, name: str) -> Any:
        """Return the client that the action's handler is called with."""
        return self._clients[name]

    def __iter__(self) -> Iterator[ActionSpec]:
        return iter(sorted(self._specs.values(), key=lambda spec: spec.name))
