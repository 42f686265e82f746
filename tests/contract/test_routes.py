"""Every route of the sealed table, asked in every way that it must refuse. A new route is covered by being declared.

Path parameters need one thing: a way to make such an object in another workspace, in ``FOREIGN``.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import pytest
from pydantic import BaseModel

from relay.core.principal import SCOPES
from relay.crypto.api_key import new_api_key
from relay.surface.declare import Call, GuardedRoute
from tests.chat_talk import begun, held
from tests.gateway import Answer, Gateway
from tests.webhooks_kit import make_receiver

OTHER = "other"
BASE_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "strict-origin-when-cross-origin",
}
MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
ECHO = {"action": "relay.echo", "params": {"message": "hello"}}
POLICIES = 'permit (principal, action in Relay::Action::"effect:read", resource);'

# Bodies that a route takes, where the schema alone does not say what makes sense.
BODIES: dict[str, Any] = {
    "POST /actions/preview": ECHO,
    "POST /actions/execute": ECHO,
    "POST /ai/plan": {"prompt": "Send an email to ada@example.com about lunch saying hello", "context": {"a": "b"}},
    "POST /ai/execute": {"steps": [ECHO | {"id": "s1"}]},
    "POST /budgets": {"scope": {"workspace": "default"}, "measure": "actions", "limit": 5},
    "PUT /budgets/{budget_id}": {"limit": 7},
    "POST /kill-switch": {"on": False, "scope": {"action": "relay.echo"}, "reason": "a test"},
    "POST /keys": {"name": "made by a test", "scopes": ["audit:read"]},
    "POST /policies/activate": {"version": 0},
    "POST /policies/replay": {"text": POLICIES},
    "POST /policies/explain": ECHO,
    "POST /keys/children": {"scopes": ["docs"]},
    "PATCH /keys/{key_id}": {"scopes": ["docs"]},
    "POST /keys/report-leak": {"token": "no key"},
}
# Whatever body these take, they answer alike.
INDIFFERENT = {"POST /keys/report-leak"}
# A key may mint for itself what is weaker than it, whatever it holds.
SCOPELESS = {"GET /keys/children", "POST /keys/children", "DELETE /keys/children/{key_id}"}
# Other forms of a body, for tests that put odd things into it.
ALSO: dict[str, Any] = {
    "POST /actions/execute": {"preview_id": "prv_0"},
    "POST /ai/execute": {"plan_id": "pln_0"},
}


async def _attempt(gateway: Gateway) -> str:
    key = await gateway.key(*SCOPES, workspace=OTHER)
    attempt: str = (await gateway.post("/actions/execute", ECHO, key=key)).expect(200)["attempt_id"]
    return attempt


async def _run(gateway: Gateway) -> str:
    key = await gateway.key(*SCOPES, workspace=OTHER)
    run: str = (await gateway.post("/ai/execute", {"steps": [ECHO]}, key=key)).expect(202)["run_id"]
    return run


async def _key(gateway: Gateway) -> str:
    key = await gateway.key("keys:manage", workspace=OTHER)
    found: str = (await gateway.get("/keys", key=key)).expect(200)["items"][0]["id"]
    return found


async def _receiver(gateway: Gateway) -> str:
    key = await gateway.key("webhooks:manage", workspace=OTHER)
    return (await make_receiver(gateway, key=key)).id


async def _received(gateway: Gateway) -> str:
    key = await gateway.key("webhooks:manage", workspace=OTHER)
    event: str = (await (await make_receiver(gateway, key=key)).deliver()).expect(200)["id"]
    return event


async def _version(gateway: Gateway) -> str:
    key = await gateway.key("policies:manage", kind="person", workspace=OTHER)
    made = await gateway.call("PUT", "/policies", key=key, json={"text": POLICIES})
    return str(made.expect(200)["version"])


async def _budget(gateway: Gateway) -> str:
    key = await gateway.key("policies:manage", kind="person", workspace=OTHER)
    body = {"scope": {"key": await _key(gateway)}, "measure": "actions", "limit": 1}
    found: str = (await gateway.post("/budgets", body, key=key)).expect(201)["id"]
    return found


async def _endpoint(gateway: Gateway) -> str:
    key = await gateway.key("webhooks:manage", workspace=OTHER)
    body = {"url": "https://hooks.example.invalid/", "events": ["*"]}
    made: str = (await gateway.post("/webhooks/endpoints", body, key=key)).expect(201)["id"]
    return made


async def _delivery(gateway: Gateway) -> str:
    endpoint = await _endpoint(gateway)
    key = await gateway.key("webhooks:manage", workspace=OTHER)
    sent: str = (await gateway.post(f"/webhooks/endpoints/{endpoint}/test", key=key)).expect(202)["delivery_id"]
    return sent


async def _approval(gateway: Gateway) -> str:
    key = await gateway.key("actions:execute", workspace=OTHER)
    wish = {"action": "http.request", "params": {"method": "POST", "url": "https://example.com/"}}
    found: str = (await gateway.post("/actions/execute", wish, key=key)).expect(202)["approval_id"]
    return found


async def _session(gateway: Gateway) -> str:
    return await begun(gateway, await gateway.key(*SCOPES, workspace=OTHER))


async def _call(gateway: Gateway) -> str:
    _, call = await held(gateway, await gateway.key(*SCOPES, workspace=OTHER))
    found: str = call["id"]
    return found


FOREIGN: dict[str, Callable[[Gateway], Awaitable[str]]] = {
    "attempt_id": _attempt,
    "run_id": _run,
    "key_id": _key,
    "budget_id": _budget,
    "version": _version,
    "receiver": _receiver,
    "receiver_id": _receiver,
    "event_id": _received,
    "endpoint_id": _endpoint,
    "delivery_id": _delivery,
    "approval_id": _approval,
    "session_id": _session,
    "call_id": _call,
}


@dataclass(frozen=True)
class Probe:
    """One method of one route, as the OpenAPI document and the sealed table describe it."""

    method: str
    route: GuardedRoute
    operation: dict[str, Any]
    schemas: dict[str, Any]

    @property
    def template(self) -> str:
        return self.route.path_format

    @property
    def name(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def names(self) -> list[str]:
        return list(self.route.param_convertors)

    @property
    def body_schema(self) -> dict[str, Any] | None:
        body = self.operation.get("requestBody")
        return None if body is None else self._resolved(body["content"]["application/json"]["schema"])

    @property
    def has_query(self) -> bool:
        return any(parameter["in"] == "query" for parameter in self.operation.get("parameters", ()))

    @property
    def public(self) -> bool:
        return self.route.access.auth == "public"

    @property
    def signed(self) -> bool:
        """Whether a signature admits, and no key: then every refusal is 401, or 503 where there is no secret."""
        return self.route.access.auth == "signature"

    @property
    def operator(self) -> bool:
        """Whether it is the operator's: no API key opens it, and a caller on this machine needs none."""
        return self.route.access.auth == "operator"

    @property
    def keyless(self) -> tuple[int, ...]:
        """What the route may answer to somebody without a key of any use; to this machine the operator's answer."""
        if self.operator:
            return (200, 401)
        return (200, 202, 503) if self.public else (401, 503) if self.signed else (401,)

    def path(self, values: dict[str, str] | None = None) -> str:
        """Return the path with each parameter's value, or one that exists nowhere."""
        return self.template.format(**{name: quote((values or {}).get(name, f"{name}_0"), "") for name in self.names})

    def body(self) -> Any:
        """Return a body that the route takes, None when it takes none."""
        schema = self.body_schema
        return None if schema is None else BODIES.get(self.name, self._sample(schema))

    def _resolved(self, schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref")
        return self._resolved(self.schemas[reference.rpartition("/")[2]]) if reference else schema

    def _sample(self, schema: dict[str, Any]) -> Any:
        schema = self._resolved(schema)
        for given in ("default", "const"):
            if given in schema:
                return schema[given]
        for given in ("examples", "enum"):
            if schema.get(given):
                return schema[given][0]
        for choice in ("anyOf", "oneOf", "allOf"):
            if choice in schema:
                return self._sample(schema[choice][0])
        kind = schema.get("type")
        if kind == "object":
            return {name: self._sample(schema["properties"][name]) for name in schema.get("required", ())}
        if kind == "array":
            return [self._sample(schema["items"])] * schema.get("minItems", 0)
        if kind in ("integer", "number"):
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        return {"string": "x" * max(1, schema.get("minLength", 1)), "boolean": False}.get(str(kind))


def probes(gateway: Gateway) -> list[Probe]:
    """Return every method of every route. An operation that OpenAPI leaves out takes neither body nor query."""
    document = gateway.server.fastapi.openapi()
    schemas = document.get("components", {}).get("schemas", {})
    found = []
    for route in gateway.server.fastapi.routes:
        assert isinstance(route, GuardedRoute)
        for method in sorted(route.methods or ()):
            operation = document["paths"].get(route.path_format, {}).get(method.lower(), {})
            found.append(Probe(method, route, operation, schemas))
    return found


def with_body(gateway: Gateway) -> list[Probe]:
    return [
        probe
        for probe in probes(gateway)
        if probe.body_schema is not None and not probe.signed and probe.name not in INDIFFERENT
    ]


async def foreign_path(gateway: Gateway, probe: Probe) -> str:
    """Return the path of an object that exists in another workspace."""
    values = {}
    for name in probe.names:
        if name not in FOREIGN:
            pytest.fail(f"{probe.name}: say in FOREIGN how a {name} of another workspace comes to be")
        values[name] = await FOREIGN[name](gateway)
    return probe.path(values)


class Walk:
    """Asks, checks what every answer must have, and gathers what is wrong instead of stopping at the first."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.asked = 0
        self.wrong: list[str] = []

    async def ask(
        self,
        about: str,
        method: str,
        path: str,
        status: int | tuple[int, ...],
        *,
        secret: str = "",
        **options: Any,
    ) -> Answer:
        answer = await self.gateway.call(method, path, **options)
        self.asked += 1
        expected = (status,) if isinstance(status, int) else status
        self.check(about, answer.status in expected, f"{answer.status} instead of {status}: {answer.body[:300]!r}")
        self.look(about, answer, path.partition("?")[0], head_only=method == "HEAD")
        if secret:
            seen = answer.body + repr(list(answer.headers.items())).encode()
            self.check(about, secret.encode() not in seen, "the credential comes back")
        return answer

    def look(self, about: str, answer: Answer, path: str, *, head_only: bool = False) -> None:
        headers = answer.headers
        self.check(about, len(headers.get("X-Request-ID", "")) >= 8, "no X-Request-ID")
        for name, value in BASE_HEADERS.items():
            self.check(about, headers.get(name) == value, f"{name} is {headers.get(name)}")
        self.check(about, "frame-ancestors 'none'" in headers.get("Content-Security-Policy", ""), "no CSP")
        self.check(about, "Server" not in headers, "the server names itself")
        if answer.status < 400 or head_only:
            return
        self.check(about, headers.get("Content-Type") == "application/problem+json", "not problem+json")
        problem = answer.json
        self.check(about, set(problem) >= MEMBERS, f"members {sorted(problem)}")
        self.check(about, problem.get("status") == answer.status, "status differs from the status line")
        self.check(about, problem.get("request_id") == headers.get("X-Request-ID"), "another request id in the body")
        self.check(about, problem.get("instance") == unquote(path), f"instance {problem.get('instance')!r}")
        self.check(about, bool(problem.get("title")) and bool(problem.get("detail")), "no words for people")
        if answer.status == 401:
            challenge = headers.get("WWW-Authenticate", "")
            self.check(
                about,
                challenge.startswith(('Bearer realm="relay"', 'Signature realm="relay"')),
                f"WWW-Authenticate {challenge!r}",
            )
        if answer.status in (429, 503):
            self.check(about, "Retry-After" in headers, "no Retry-After")

    def check(self, about: str, holds: bool, what: str) -> None:
        if not holds:
            self.wrong.append(f"{about}: {what}")


@pytest.fixture
async def walk(gateway: Gateway) -> AsyncIterator[Walk]:
    walk = Walk(gateway)
    yield walk
    assert walk.asked, "nothing was asked"
    assert not walk.wrong, "\n".join(walk.wrong)


def test_the_table_is_whole(gateway: Gateway) -> None:
    names = {probe.name for probe in probes(gateway)}
    assert {"GET /health", "POST /actions/execute", "GET /audit", "GET /docs", "DELETE /keys/{key_id}"} <= names
    assert {"POST /keys", "POST /keys/{key_id}/rotate", "POST /ai/plan"} <= {p.name for p in with_body(gateway)}


class Thing(BaseModel):
    text: str


async def _thing(call: Call, thing_id: str) -> Thing:
    return Thing(text=thing_id)


async def test_an_unknown_path_parameter_wants_an_entry(gateway: Gateway) -> None:
    known = probes(gateway)[0]
    route = GuardedRoute(
        "/things/{thing_id}",
        _thing,
        access=known.route.access,
        admit=known.route.admit,
        body_limit=1024,
        body_seconds=1.0,
        methods=["GET"],
    )
    with pytest.raises(pytest.fail.Exception, match="thing_id"):
        await foreign_path(gateway, Probe("GET", route, {}, {}))


async def test_without_credential(walk: Walk) -> None:
    for probe in probes(walk.gateway):
        status = probe.keyless
        for path in {probe.path(), *([await foreign_path(walk.gateway, probe)] if probe.names else [])}:
            await walk.ask(probe.name, probe.method, path, status, json=probe.body())


def _garbage(dead: str) -> Iterator[tuple[str, list[tuple[str, str]], str]]:
    unknown = new_api_key("test")
    mistyped = unknown[:-1] + ("0" if unknown[-1] != "0" else "1")
    for about, text in {"unknown": unknown, "mistyped": mistyped, "revoked": dead}.items():
        yield about, [("Authorization", f"Bearer {text}")], text
        yield f"{about} in X-API-Key", [("X-API-Key", text)], text
    for about, value in {
        "no scheme": unknown,
        "Basic": "Basic cmVsYXk6c2VjcmV0Y2FuYXJ5",
        "scheme alone": "Bearer",
        "empty": "",
        "two words": "Bearer canary-one canary-two",
        "not ASCII": "Bearer canary-\xe9\xff",
        "long": "Bearer canary" + "x" * 5000,
        "demo": "Bearer relay_sk_demo_preview_key",
    }.items():
        yield about, [("Authorization", value)], value.rpartition(" ")[2] if len(value) > 8 else ""
    yield "two different keys", [("Authorization", f"Bearer {dead}"), ("X-API-Key", unknown)], dead
    yield "a header given twice", [("Authorization", f"Bearer {dead}"), ("Authorization", f"Bearer {dead}")], dead


async def test_a_garbage_credential(walk: Walk) -> None:
    dead = await walk.gateway.key(*SCOPES)
    record = (await walk.gateway.get("/keys", key=walk.gateway.admin)).expect(200)["items"][0]
    (await walk.gateway.call("DELETE", f"/keys/{record['id']}", key=walk.gateway.admin)).expect(200)
    for probe in probes(walk.gateway):
        for about, headers, secret in _garbage(dead):
            status = probe.keyless
            await walk.ask(
                f"{probe.name} ({about})", probe.method, probe.path(), status, headers=headers, secret=secret
            )


async def test_a_good_and_another_credential_at_once(walk: Walk) -> None:
    other = await walk.gateway.key(*SCOPES)
    for probe in probes(walk.gateway):
        status = probe.keyless
        headers = [("X-API-Key", other)]
        await walk.ask(
            probe.name, probe.method, probe.path(), status, key=walk.gateway.admin, headers=headers, secret=other
        )


async def test_without_one_of_the_scopes(walk: Walk) -> None:
    keys: dict[str, str] = {}
    for probe in probes(walk.gateway):
        for lacking in sorted(probe.route.access.scopes):
            if lacking not in keys:
                keys[lacking] = await walk.gateway.key(*(scope for scope in SCOPES if scope != lacking), kind="person")
            key = keys[lacking]
            answer = await walk.ask(probe.name, probe.method, probe.path(), 403, key=key, json=probe.body(), secret=key)
            problem = answer.json
            walk.check(
                probe.name, problem.get("required_scopes") == sorted(probe.route.access.scopes), f"{problem} (required)"
            )
            walk.check(probe.name, problem.get("missing_scopes") == [lacking], f"{problem} (missing)")


def test_every_route_that_is_not_public_wants_a_scope(gateway: Gateway) -> None:
    keyed = [probe for probe in probes(gateway) if not probe.public and not probe.signed and not probe.operator]
    assert {probe.name for probe in keyed if not probe.route.access.scopes} == SCOPELESS


async def test_an_object_of_another_workspace_does_not_exist(walk: Walk) -> None:
    key = walk.gateway.admin
    for probe in (probe for probe in probes(walk.gateway) if probe.names):
        missing = 401 if probe.signed else 404
        foreign = await walk.ask(
            probe.name, probe.method, await foreign_path(walk.gateway, probe), missing, key=key, json=probe.body()
        )
        nowhere = await walk.ask(probe.name, probe.method, probe.path(), missing, key=key, json=probe.body())
        told, expected = (
            {name: value for name, value in answer.json.items() if name not in ("instance", "request_id")}
            for answer in (foreign, nowhere)
        )
        walk.check(probe.name, told == expected, f"{told} tells that it exists somewhere: {expected}")


async def test_another_workspace_s_objects_are_untouched(gateway: Gateway) -> None:
    """What the walk above was refused did not happen all the same."""
    run, key = await _run(gateway), await _key(gateway)
    for method, path in (
        ("POST", f"/ai/jobs/{run}/cancel"),
        ("DELETE", f"/keys/{key}"),
        ("POST", f"/keys/{key}/rotate"),
    ):
        (await gateway.call(method, path, key=gateway.admin)).expect(404)
    theirs = await gateway.key(*SCOPES, workspace=OTHER)
    assert (await gateway.get(f"/ai/jobs/{run}", key=theirs)).expect(200)["cancel_requested"] is False
    items = (await gateway.get("/keys", key=theirs)).expect(200)["items"]
    assert next(item for item in items if item["id"] == key)["status"] == "live"


ODD_IDS = ["\0", "a\0b", "%", "é\u202e", "\U0001f600", "../../etc/passwd", "' OR '1'='1", "x" * 3000, "-1", "\x7f\x01"]


async def test_an_odd_path_parameter_is_not_found(walk: Walk) -> None:
    for probe in (probe for probe in probes(walk.gateway) if probe.names):
        for odd in ODD_IDS:
            path = probe.path(dict.fromkeys(probe.names, odd))
            about = f"{probe.name} ({odd[:20]!r})"
            missing = 401 if probe.signed and "/" not in odd else 404
            await walk.ask(about, probe.method, path, missing, key=walk.gateway.admin, json=probe.body())


async def test_a_path_that_is_not_utf_8(walk: Walk) -> None:
    for probe in (probe for probe in probes(walk.gateway) if probe.names):
        path = probe.template.format(**dict.fromkeys(probe.names, "%FF%FE%C0%80"))
        body = b"" if probe.body() is None else json.dumps(probe.body()).encode()
        head = (
            f"{probe.method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {walk.gateway.admin}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        answer = await walk.gateway.raw(head.encode() + body)
        walk.asked += 1
        missing = b"HTTP/1.1 401 " if probe.signed else b"HTTP/1.1 404 "
        walk.check(probe.name, answer.startswith(missing), repr(answer[:100]))


async def test_an_oversize_body(walk: Walk) -> None:
    gateway = walk.gateway
    for probe in with_body(gateway):
        limit = probe.route.body_limit
        head = (
            f"{probe.method} {probe.path()} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.admin}\r\n"
            "Content-Type: application/json\r\n"
        )
        declared = await gateway.raw(f"{head}Content-Length: {limit + 1}\r\n\r\n".encode())
        walk.check(probe.name, declared.startswith(b"HTTP/1.1 413 "), f"declared: {declared[:60]!r}")
        walk.check(probe.name, b'"limit_bytes":%d' % limit in declared, f"declared: {declared[-200:]!r}")
        chunk = b"%x\r\n%s\r\n" % (limit + 1, b" " * (limit + 1))
        streamed = await gateway.raw(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk, seconds=20)
        walk.check(probe.name, streamed.startswith(b"HTTP/1.1 413 "), f"streamed: {streamed[:60]!r}")
        fits = json.dumps({"no_such_member": 1}).encode().ljust(min(limit, 600_000))
        await walk.ask(probe.name, probe.method, probe.path(), 422, key=gateway.admin, data=fits)


async def test_a_wrong_content_type(walk: Walk) -> None:
    for probe in with_body(walk.gateway):
        data = json.dumps(probe.body()).encode()
        for headers in (
            {"Content-Type": "text/plain"},
            {"Content-Type": "application/x-www-form-urlencoded"},
            {"Content-Type": "multipart/form-data; boundary=x"},
            {"Content-Type": "application/json; charset=iso-8859-1"},
            {"Content-Type": "application/jsonp"},
            {"Content-Type": ""},
            {"Content-Encoding": "gzip"},
        ):
            await walk.ask(
                f"{probe.name} {headers}",
                probe.method,
                probe.path(),
                415,
                key=walk.gateway.admin,
                data=data,
                headers=headers,
            )


BROKEN = [b"{", b"", b"{}{}", b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}', b"\xff\xfe{}", b"\x00", b'"\\ud800"']


async def test_broken_json(walk: Walk) -> None:
    for probe in with_body(walk.gateway):
        # A route whose body may be left out takes an empty one.
        for data in BROKEN if probe.operation["requestBody"].get("required") else filter(None, BROKEN):
            await walk.ask(f"{probe.name} {data!r}", probe.method, probe.path(), 400, key=walk.gateway.admin, data=data)


async def test_a_body_that_is_no_object(walk: Walk) -> None:
    for probe in with_body(walk.gateway):
        for data in (b"[]", b"1", b"null", b'"text"', b"true"):
            await walk.ask(f"{probe.name} {data!r}", probe.method, probe.path(), 422, key=walk.gateway.admin, data=data)


async def test_an_unknown_member(walk: Walk) -> None:
    for probe in with_body(walk.gateway):
        body = {**probe.body(), "no/such~member": "a value that does not come back"}
        answer = await walk.ask(probe.name, probe.method, probe.path(), 422, key=walk.gateway.admin, json=body)
        errors = answer.json.get("errors", [])
        walk.check(probe.name, [e["pointer"] for e in errors] == ["/no~1such~0member"], f"errors {errors}")
        walk.check(probe.name, b"does not come back" not in answer.body, "the value comes back")


def _nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


EXTREME = {
    "40 levels": (_nested(40), 422),
    "150 levels of arrays": (b'{"a":' + b"[" * 150 + b"]" * 150 + b"}", 422),
    "100,000 levels": (b"[" * 100_000, 400),
    "many values": (b'{"a":[' + b"1," * 60_000 + b"1]}", 422),
    "a long name": (b'{"' + b"a" * 2000 + b'": 1}', 422),
    "2^53": (b'{"a": 9007199254740992}', 422),
    "-2^53": (b'{"a": -9007199254740992}', 422),
    "2^64": (b'{"a": 18446744073709551616}', 422),
    "a large fraction": (b'{"a": 9007199254740993.5}', 422),
    "infinity in digits": (b'{"a": 1e999}', 422),
    "5,000 digits": (b'{"a": 1' + b"0" * 5000 + b"}", 400),
}


async def test_extreme_json(walk: Walk) -> None:
    for probe in with_body(walk.gateway):
        for about, (data, status) in EXTREME.items():
            if len(data) > probe.route.body_limit:
                status = 413
            answer = await walk.ask(
                f"{probe.name} ({about})", probe.method, probe.path(), status, key=walk.gateway.admin, data=data
            )
            if status == 422:
                pointers = [error["pointer"] for error in answer.json["errors"]]
                walk.check(f"{probe.name} ({about})", pointers == [""], f"refused for another reason: {answer.json}")


ODD_TEXTS = ["\0", "a\0b", "\ufffe\uffff", "\u202e", "\U0001f600" * 50, "x" * 3000, "'; DROP TABLE api_keys; --", ""]


async def test_odd_text_breaks_nothing(walk: Walk) -> None:
    """Whatever text stands in a body, the answer is a success or the caller's fault."""
    fine = tuple(range(200, 500))
    for probe in with_body(walk.gateway):
        for body in _with_each_text_replaced([probe.body(), ALSO.get(probe.name)]):
            body = body[0] if body[0] != probe.body() else body[1]
            await walk.ask(
                f"{probe.name} {str(body)[:200]}", probe.method, probe.path(), fine, key=walk.gateway.admin, json=body
            )


async def test_no_text_of_any_body_may_hold_what_a_database_refuses(walk: Walk) -> None:
    """PostgreSQL takes no NUL in text. Every member that may hold text is tried, those that may be left out too."""
    fine = tuple(range(200, 500))
    owner = await walk.gateway.key(*SCOPES, workspace=OTHER, kind="person")
    tried = set()
    for probe in with_body(walk.gateway):
        path = await foreign_path(walk.gateway, probe) if probe.names else probe.path()
        for body in _with_nul(probe, probe.body_schema or {}, probe.body()):
            about = f"{probe.name} {str(body)[:200]}"
            await walk.ask(about, probe.method, path, fine, key=owner, json=body)
            tried.add(probe.name)
    assert {"POST /webhooks/endpoints", "PATCH /webhooks/endpoints/{endpoint_id}", "POST /kill-switch"} <= tried


def _with_nul(probe: Probe, schema: dict[str, Any], base: Any) -> Iterator[Any]:
    """Give ``base`` again and again, with NUL in another one of the texts that ``schema`` has a place for."""
    schema = probe._resolved(schema)
    choices = [choice for kind in ("anyOf", "oneOf", "allOf") for choice in schema.get(kind, ())]
    for choice in choices:
        yield from _with_nul(probe, choice, base)
    kind = schema.get("type")
    if kind == "object":
        base = base if isinstance(base, dict) else probe._sample(schema)
        for name, inner in schema.get("properties", {}).items():
            for odd in _with_nul(probe, inner, base.get(name)):
                yield {**base, name: odd}
        if schema.get("additionalProperties"):
            yield {**base, "\0": "x"}
            yield {**base, "a": "\0"}
    elif kind == "array":
        for odd in _with_nul(probe, schema["items"], base[0] if isinstance(base, list) and base else None):
            yield [odd]
    elif kind == "string" or (kind is None and not choices):
        yield from ("\0", "a\0b")


def _with_each_text_replaced(value: Any) -> Iterator[Any]:
    if isinstance(value, str):
        yield from ODD_TEXTS
    elif isinstance(value, dict):
        for name, inner in value.items():
            for replaced in _with_each_text_replaced(inner):
                yield {**value, name: replaced}
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            for replaced in _with_each_text_replaced(inner):
                yield [*value[:place], replaced, *value[place + 1 :]]


async def test_a_wrong_query(walk: Walk) -> None:
    for probe in (probe for probe in probes(walk.gateway) if probe.has_query):
        for query, status in {"no_such=1": 422, "limit=0": 422, "limit=1&limit=1": 400, "limit=x": 422}.items():
            await walk.ask(
                f"{probe.name}?{query}", probe.method, f"{probe.path()}?{query}", status, key=walk.gateway.admin
            )
        for parameter in probe.operation["parameters"]:
            for odd in ("%00", "a%00b", "%F0%9F%98%80", "%FF", "%27%20OR%201=1"):
                await walk.ask(
                    f"{probe.name}?{parameter['name']}={odd}",
                    probe.method,
                    f"{probe.path()}?{parameter['name']}={odd}",
                    tuple(range(200, 500)),
                    key=walk.gateway.admin,
                )


async def test_a_credential_in_the_query_is_none(walk: Walk) -> None:
    key = walk.gateway.admin
    for probe in (probe for probe in probes(walk.gateway) if not probe.public):
        for name in ("access_token", "api_key", "key", "token"):
            await walk.ask(probe.name, probe.method, f"{probe.path()}?{name}={key}", probe.keyless, secret=key)


async def test_a_method_that_the_path_does_not_have(walk: Walk) -> None:
    methods: dict[str, set[str]] = {}
    for probe in probes(walk.gateway):
        methods.setdefault(probe.path(), set()).add(probe.method)
    for path, known in methods.items():
        for method in METHODS:
            if method in known:
                continue
            answer = await walk.ask(f"{method} {path}", method, path, 405, key=walk.gateway.admin)
            allowed = answer.headers.get("Allow", "").split(", ")
            walk.check(f"{method} {path}", allowed == sorted(known), f"Allow: {allowed} instead of {sorted(known)}")


async def test_neighbours_of_a_path_are_nothing(walk: Walk) -> None:
    declared = {probe.template for probe in probes(walk.gateway)}
    for probe in probes(walk.gateway):
        if "{" not in probe.template:
            for path in {f"{probe.path()}/", f"//{probe.path()[1:]}", probe.path().upper()} - declared:
                await walk.ask(path, probe.method, path, (404, 405), key=walk.gateway.admin)


VALID_REQUEST_IDS = ["abcdefgh", "req_0123456789", "a" * 128, "A.b-c_d-0123"]
INVALID_REQUEST_IDS = [
    "short",
    "a" * 129,
    "-leading",
    "with space",
    "semi;colon",
    "é" * 8,
    "<script>alert",
    "../../../x",
]


async def test_request_ids(walk: Walk) -> None:
    for probe in probes(walk.gateway):
        for given in VALID_REQUEST_IDS:
            status = probe.keyless
            answer = await walk.ask(probe.name, probe.method, probe.path(), status, headers={"X-Request-ID": given})
            walk.check(probe.name, answer.headers["X-Request-ID"] == given, f"{given} was not kept")
        for given in INVALID_REQUEST_IDS:
            status = probe.keyless
            answer = await walk.ask(probe.name, probe.method, probe.path(), status, headers={"X-Request-ID": given})
            walk.check(probe.name, given not in repr(answer.headers) + repr(answer.body), f"{given!r} was kept")


async def test_two_request_ids_are_none(walk: Walk) -> None:
    answer = await walk.ask(
        "two ids", "GET", "/health", 200, headers=[("X-Request-ID", "first-id-1"), ("X-Request-ID", "second-id-2")]
    )
    walk.check("two ids", answer.headers["X-Request-ID"].startswith("req_"), answer.headers["X-Request-ID"])
