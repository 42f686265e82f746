"""State: what has become another thing since it was looked at is not changed, over a real HTTP server with ETags."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from relay.connectors.http import SendRequest, probe
from relay.gate.probe import UNREAD
from relay.store.target import Target
from tests.approvals_kit import Office, open_office
from tests.outside import HttpServer, http_server, read_request

AUTHORIZATION = "Bearer made-up"  # pragma: allowlist secret
FORBIDDEN_READS = """
@id("reads") permit (principal, action in Relay::Action::"effect:read", resource);
@id("asks") permit (principal, action, resource) when { context.approved };
"""


@dataclass
class Document:
    """Something that lives at a URL. ``tag`` is its version, ``methods`` and ``heads`` are of what was asked of it."""

    tag: str | None = '"v1"'
    modified: str | None = None
    methods: list[str] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    server: HttpServer = field(default_factory=HttpServer)

    @property
    def url(self) -> str:
        return f"{self.server.url}/thing"

    async def answer(self, server: HttpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await read_request(reader)).partition(b"\r\n\r\n")[0].decode()
        self.methods.append(head.partition(" ")[0])
        self.heads.append(head.lower())
        lines = ["HTTP/1.1 200 OK", "Content-Length: 0"]
        lines += [f"ETag: {self.tag}"] if self.tag else []
        lines += [f"Last-Modified: {self.modified}"] if self.modified else []
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        await writer.drain()

    def put(self, method: str = "PUT", **more: Any) -> dict[str, Any]:
        headers = {"authorization": AUTHORIZATION, "content-type": "text/plain", **more}
        return {
            "action": "http.request",
            "params": {"method": method, "url": self.url, "headers": headers, "body": "x"},
        }


@asynccontextmanager
async def a_document(**given: Any) -> AsyncIterator[Document]:
    document = Document(**given)
    async with http_server(document.answer) as server:
        document.server = server
        yield document


@asynccontextmanager
async def world(target: Target, folder: Path, **given: Any) -> AsyncIterator[tuple[Office, Document]]:
    async with a_document(**given) as document:
        opened = {"EGRESS_ALLOW": f"127.0.0.1:{document.server.port}"}
        async with open_office(target, folder / "data", **opened) as office:
            yield office, document


async def previewed(office: Office, document: Document, *, key: str | None = None, **more: Any) -> dict[str, Any]:
    answer = await office.gateway.post("/actions/preview", document.put(**more), key=key or office.owner)
    found: dict[str, Any] = answer.expect(200)
    return found


async def executed(office: Office, preview: dict[str, Any], *, key: str | None = None) -> Any:
    body = {"preview_id": preview["preview_id"]}
    return await office.gateway.post("/actions/execute", body, key=key or office.owner)


async def test_a_preview_runs_while_nothing_has_changed(target: Target, tmp_path: Path) -> None:
    async with world(target, tmp_path) as (office, document):
        preview = await previewed(office, document)
        assert preview["seen_version"] == 'etag:"v1"' and UNREAD not in preview["warnings"]
        (await executed(office, preview)).expect(200)
        assert document.methods == ["HEAD", "HEAD", "PUT"]
        assert 'if-match: "v1"' in document.heads[-1]
        for head in document.heads[:2]:
            assert f"authorization: {AUTHORIZATION.lower()}" in head and "content-type" not in head
        intents = await office.gateway.events("gate:action:intent")
        assert len(intents) == 3, "a read is recorded like any attempt"


async def test_a_preview_does_not_run_once_it_has(target: Target, tmp_path: Path) -> None:
    async with world(target, tmp_path) as (office, document):
        preview = await previewed(office, document)
        document.tag = '"v2"'
        problem = (await executed(office, preview)).expect(409)
        assert problem["type"].endswith(":state-changed") and problem["code"] == "state_changed"
        document.tag = None
        (await executed(office, preview)).expect(409)
        assert "PUT" not in document.methods
        assert len(await office.gateway.events("gate:action:denied")) == 2


async def test_an_approved_step_does_not_run_once_it_has(target: Target, tmp_path: Path) -> None:
    async with world(target, tmp_path) as (office, document):
        await office.policy(
            """
            @id("heads") permit (principal, action == Relay::Action::"http.request", resource)
            when { context.params.method == "HEAD" };
            @id("asks") permit (principal, action, resource) when { context.approved };
            """
        )
        for changed in (False, True):
            document.tag, before = '"v1"', document.methods.count("DELETE")
            wish = document.put("DELETE")
            found = (await office.gateway.post("/actions/execute", wish, key=office.agent)).expect(202)
            request = await office.request(found["approval_id"])
            assert request["seen_version"] == 'etag:"v1"'
            if changed:
                document.tag = '"v2"'
            (await office.decide(request)).expect(200)
            ended = await office.ended(found["attempt_id"])
            if changed:
                assert (ended["status"], ended["error"]["code"]) == ("denied", "state_changed")
            else:
                assert ended["status"] == "succeeded", ended
            assert document.methods.count("DELETE") - before == (not changed)


async def test_nothing_is_read_where_that_would_need_an_approval(target: Target, tmp_path: Path) -> None:
    """The URL is the agent's choice: a preview must not be a way to have it called."""
    async with world(target, tmp_path) as (office, document):
        await office.policy(FORBIDDEN_READS)
        preview = await previewed(office, document, key=office.agent)
        assert preview["seen_version"] is None and UNREAD in preview["warnings"]
        assert preview["decision"] == "require_approval"
        found = (await executed(office, preview, key=office.agent)).expect(202)
        assert document.methods == []
        assert (await office.gateway.get("/approvals?status=pending", key=office.ada)).expect(200)["items"][0][
            "approval_id"
        ] == found["approval_id"]
        assert await office.gateway.events("gate:action:denied") == []
        (await office.decide(await office.request(found["approval_id"]))).expect(200)
        assert (await office.ended(found["attempt_id"]))["status"] == "succeeded"
        assert document.methods == ["PUT"] and "if-match" not in document.heads[-1]


async def test_a_weak_version_is_compared_but_not_sent(target: Target, tmp_path: Path) -> None:
    async with world(target, tmp_path, tag='W/"v1"') as (office, document):
        preview = await previewed(office, document)
        assert preview["seen_version"] == 'etag:W/"v1"'
        (await executed(office, preview)).expect(200)
        assert "if-match" not in document.heads[-1]
        document.tag, document.modified = None, "Sun, 06 Nov 1994 08:49:37 GMT"
        preview = await previewed(office, document)
        assert preview["seen_version"] == "last-modified:Sun, 06 Nov 1994 08:49:37 GMT"
        document.modified = "Mon, 07 Nov 1994 08:49:37 GMT"
        (await executed(office, preview)).expect(409)
        document.tag = '"v1"'
        own = await previewed(office, document, **{"if-match": '"own"'})
        (await executed(office, own)).expect(200)
        assert 'if-match: "own"' in document.heads[-1] and '"v1"' not in document.heads[-1]


@pytest.mark.parametrize("tag", ['"a\x7fb"', '"é"', '"\udce9"', '"a b"', '"a"b"', '"open', '"' + "x" * 7000 + '"'])
async def test_an_etag_that_cannot_be_sent_back_keeps_nothing_from_being_sent(
    target: Target, tmp_path: Path, tag: str
) -> None:
    async with world(target, tmp_path, tag=tag) as (office, document):
        padding = {f"x-{number}": "p" * 4000 for number in range(3)} if len(tag) > 1000 else {}
        preview = await previewed(office, document, **padding)
        assert preview["seen_version"].startswith('etag:"') and preview["seen_version"].isprintable()
        done = (await executed(office, preview)).expect(200)
        assert done["status"] == "succeeded" and document.methods == ["HEAD", "HEAD", "PUT"]
        assert "if-match" not in document.heads[-1]


@pytest.mark.parametrize("tag", ['""', '"!#~"', '"{a:b}"'])
async def test_every_strong_etag_is_sent_back_as_it_is(target: Target, tmp_path: Path, tag: str) -> None:
    async with world(target, tmp_path, tag=tag) as (office, document):
        (await executed(office, await previewed(office, document))).expect(200)
        assert f"if-match: {tag}\r\n" in document.heads[-1] + "\r\n"


async def test_what_cannot_be_read_is_said(target: Target, tmp_path: Path) -> None:
    async with world(target, tmp_path, tag=None) as (office, document):
        preview = await previewed(office, document)
        assert preview["seen_version"] is None and UNREAD in preview["warnings"]
        (await executed(office, preview)).expect(200)
        assert document.methods == ["HEAD", "PUT"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_what_changes_nothing_that_is_there_has_no_version(method: str) -> None:
    assert probe(SendRequest(method=method, url="https://example.com/")) is None
