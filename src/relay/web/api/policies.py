"""The policies of the caller's workspace, in versions: read, put, compare, activate."""

import asyncio
from typing import Annotated, Final

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from relay.core.access import Access
from relay.core.principal import Scope
from relay.core.problem import NotFound
from relay.policy.diff import unified_diff
from relay.policy.text import MAX_BYTES
from relay.policy.versions import MAX_COMMENT, MAX_VERSION, PolicyVersions
from relay.policy.view import problem_view, version_view
from relay.surface.body import KIB
from relay.surface.declare import Call, Routes

_MAX_PAGE: Final = 100
_DEFAULT_PAGE: Final = 20
# Every character may be written as \uXXXX, and a pair of them for what lies beyond.
TEXT_LIMIT: Final = 6 * MAX_BYTES + 16 * KIB
_SMALL_LIMIT: Final = 16 * KIB
_MANAGE: Final[frozenset[Scope]] = frozenset({"policies:manage"})

PolicyText = Annotated[str, Field(max_length=MAX_BYTES, examples=["permit (principal, action, resource);"])]
_Comment = Annotated[str, Field(max_length=MAX_COMMENT, examples=["nobody mails strangers at night"])]
VersionNumber = Annotated[int, Field(strict=True, ge=0, le=MAX_VERSION)]


class Strict(BaseModel):
    """What comes in: unknown members are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PutPolicies(Strict):
    """A new version. ``expected_version`` is the newest that the caller knows of: a newer one is a 409."""

    text: PolicyText
    comment: _Comment = ""
    expected_version: VersionNumber | None = None
    activate: Annotated[bool, Field(strict=True)] = True


class ActivateVersion(Strict):
    """The version that shall hold, 0 for the default. ``expected_version`` is the one that must hold until then."""

    version: VersionNumber
    comment: _Comment = ""
    expected_version: VersionNumber | None = None


class VersionsQuery(Strict):
    """A page of versions."""

    limit: Annotated[int, Field(ge=1, le=_MAX_PAGE)] = _DEFAULT_PAGE
    cursor: Annotated[str, Field(pattern=r"^[0-9]{1,10}$")] | None = None


class DiffQuery(Strict):
    """The version to compare with; 0 is the default."""

    to: Annotated[int, Field(ge=0, le=MAX_VERSION)] = 0


class PolicyProblem(BaseModel):
    """What is wrong with a text, and where; lines and columns count from 1."""

    line: int
    column: int
    reason: str


class ActivePolicies(BaseModel):
    """What holds in the workspace.

    ``version`` is the newest, ``active`` the one that holds, whose ``text``, ``digest``, ``author``, ``comment`` and
    time these are; 0 is the default. ``baseline`` is forbidden beside it, whatever it says. With any ``problems`` the
    text does not check any more, and nothing is allowed.
    """

    version: int
    active: int
    default: bool
    text: str
    digest: str
    author: str
    comment: str
    created_at: str | None
    baseline: str
    problems: list[PolicyProblem]
    warnings: list[str]


class VersionMade(BaseModel):
    """The version that was put. ``warnings`` are about what is allowed but surely not meant."""

    version: int
    active: bool
    digest: str
    warnings: list[str]


class VersionItem(BaseModel):
    """A version without its text; the default (0) has no time."""

    version: int
    active: bool
    digest: str
    author: str
    comment: str
    created_at: str | None


class VersionList(BaseModel):
    """Versions of the workspace, newest first."""

    items: list[VersionItem]
    next_cursor: str | None


class VersionText(VersionItem):
    """A version with its text."""

    text: str


class VersionDiff(BaseModel):
    """A unified diff from one version to another; empty when the texts are the same."""

    from_version: int
    to_version: int
    diff: str


class Activated(BaseModel):
    """The version that holds now."""

    version: int
    digest: str


def policies_routes(versions: PolicyVersions, *, baseline: str) -> Routes:
    """Return the routes of policies. ``baseline`` is the text of what is forbidden everywhere."""
    routes = Routes()

    @routes.get("/policies", access=policies_access("read"), summary="Show the policies that hold")
    async def show(call: Call) -> ActivePolicies:
        """Return the active policies of the caller's workspace, and what is wrong with them if anything is."""
        state = await versions.state(call.principal.workspace_id)
        row = state.active
        view = version_view(row, active=row.version)
        view |= {"version": state.latest, "active": row.version}
        problems = [PolicyProblem(**problem_view(problem)) for problem in state.problems]
        return ActivePolicies(
            **view,
            default=row.version == 0,
            text=row.text,
            baseline=baseline,
            problems=problems,
            warnings=list(state.warnings),
        )

    @routes.put(
        "/policies", access=policies_access("put"), body_limit=TEXT_LIMIT, summary="Put a version of the policies"
    )
    async def put(call: Call, body: PutPolicies) -> VersionMade:
        """Append a version and let it hold, here when this is answered, within a second in every other process."""
        row, warnings = await versions.put(
            call.principal,
            call.principal.workspace_id,
            body.text,
            comment=body.comment,
            expected_version=body.expected_version,
            activate=body.activate,
            request_id=call.request_id,
        )
        return VersionMade(version=row.version, active=body.activate, digest=row.digest, warnings=list(warnings))

    @routes.get("/policies/versions", access=policies_access("list"), summary="List versions")
    async def list_versions(call: Call, query: Annotated[VersionsQuery, Query()]) -> VersionList:
        """Return the workspace's versions, newest first, without their texts."""
        workspace = call.principal.workspace_id
        before = int(query.cursor) if query.cursor is not None else None
        found = await versions.page(workspace, before=before, limit=query.limit + 1)
        rows, active = found[: query.limit], (await versions.active(workspace)).version
        return VersionList(
            items=[VersionItem(**version_view(row, active=active)) for row in rows],
            next_cursor=str(rows[-1].version) if len(found) > query.limit else None,
        )

    @routes.get("/policies/versions/{version}", access=policies_access("version"), summary="Show a version")
    async def show_version(call: Call, version: str) -> VersionText:
        """Return a version of the workspace with its text; 0 is the default."""
        workspace = call.principal.workspace_id
        row = await versions.get(workspace, _number(version))
        active = (await versions.active(workspace)).version
        return VersionText(**version_view(row, active=active), text=row.text)

    @routes.get("/policies/versions/{version}/diff", access=policies_access("diff"), summary="Compare two versions")
    async def diff(call: Call, version: str, query: Annotated[DiffQuery, Query()]) -> VersionDiff:
        """Return what changes from this version to another, as a unified diff."""
        workspace = call.principal.workspace_id
        old = await versions.get(workspace, _number(version))
        new = await versions.get(workspace, query.to)
        names = (f"version {old.version}", f"version {new.version}")
        found = await asyncio.to_thread(unified_diff, old.text, new.text, names=names)
        return VersionDiff(from_version=old.version, to_version=new.version, diff=found)

    @routes.post(
        "/policies/activate", access=policies_access("activate"), body_limit=_SMALL_LIMIT, summary="Return to a version"
    )
    async def activate(call: Call, body: ActivateVersion) -> Activated:
        """Let a version hold, here when this is answered, within a second in every other process."""
        row = await versions.activate(
            call.principal,
            call.principal.workspace_id,
            body.version,
            comment=body.comment,
            expected_version=body.expected_version,
            request_id=call.request_id,
        )
        return Activated(version=row.version, digest=row.digest)

    return routes


def _number(text: str) -> int:
    # One spelling for one version: no sign, no space, no digits of other scripts, no leading zero.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and str(int(text)) == text):
        raise NotFound("There is no such version.")
    return int(text)


def policies_access(what: str) -> Access:
    """Return the access of the routes that manage policies."""
    return Access("bearer", _MANAGE, (), f"api:policies:{what}")
