"""Looking at requests: what waits, what it would really do, and who has decided what."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from relay.approvals.decide import COMMENT, comment_of
from relay.catalog import ActionSpec, Catalog, Rendering
from relay.core.action import Step
from relay.core.problem import BadRequest, NotFound
from relay.store.approvals import ApprovalRepository, ApprovalRow, DecisionRow
from relay.store.attempts import AttemptRepository, AttemptRow
from relay.store.database import Database
from relay.store.vault import Vault

PENDING: Final = "pending"
MAX_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class Request:
    """A request as whoever decides about it sees it.

    ``params`` are masked by the action; they and ``rendering`` are None after their retention, and where the action is
    not what it was. ``comments`` are by approver.
    """

    approval: ApprovalRow
    attempt: AttemptRow
    params: dict[str, Any] | None
    rendering: Rendering | None
    decisions: Sequence[DecisionRow]
    comments: dict[str, str]


class Requests:
    """The requests of every workspace; each method is scoped to one."""

    def __init__(self, database: Database, vault: Vault, catalog: Catalog) -> None:
        self._database = database
        self._vault = vault
        self._catalog = catalog

    async def show(self, workspace_id: str, approval_id: str) -> Request:
        """Return one request; 404 for one of another workspace."""
        found = await ApprovalRepository(workspace_id).get(self._database.reader, approval_id)
        if found is None:
            raise NotFound("There is no such request in this workspace.")
        return (await self._filled(workspace_id, [found]))[0]

    async def page(
        self, workspace_id: str, *, status: str | None, cursor: str | None, limit: int
    ) -> tuple[list[Request], str | None]:
        """Return up to ``limit`` requests and the cursor of the next page.

        What is pending comes first, the oldest before the others since it expires first; then what has ended, newest
        first. ``status`` leaves one kind.
        """
        ended, after = _place(cursor)
        limit = min(limit, MAX_PAGE)
        found = [] if ended or status not in (None, PENDING) else await self._pending(workspace_id, after, limit)
        if len(found) <= limit and status != PENDING:
            more = limit + 1 - len(found)
            requests = ApprovalRepository(workspace_id)
            found += await requests.ended(self._database.reader, (after or None) if ended else None, more, status)
        page = found[:limit]
        following = _cursor(page[-1]) if len(found) > limit else None
        return await self._filled(workspace_id, page), following

    async def comments(self, workspace_id: str, approval_id: str) -> dict[str, str]:
        """Return what those who decided about a request said, by approver."""
        decisions = await ApprovalRepository(workspace_id).decided(self._database.reader, approval_id)
        return await self._comments(workspace_id, decisions)

    async def summary(self, workspace_id: str, approval: ApprovalRow) -> str | None:
        """Return in one sentence what a request would do, None where nobody can say any more."""
        attempt = await AttemptRepository(workspace_id).get(self._database.reader, approval.attempt_id)
        if attempt is None:
            return None
        rendering = (await self._rendered(attempt))[1]
        return None if rendering is None else rendering.summary

    async def _pending(self, workspace_id: str, after: str, limit: int) -> list[ApprovalRow]:
        return await ApprovalRepository(workspace_id).pending(self._database.reader, after, limit + 1)

    async def _filled(self, workspace_id: str, rows: Sequence[ApprovalRow]) -> list[Request]:
        if not rows:
            return []
        reader = self._database.reader
        attempts = await AttemptRepository(workspace_id).several(reader, [row.attempt_id for row in rows])
        decided: defaultdict[str, list[DecisionRow]] = defaultdict(list)
        for decision in await ApprovalRepository(workspace_id).decided_of(reader, [row.id for row in rows]):
            decided[decision.approval_id].append(decision)
        return [await self._whole(row, attempts[row.attempt_id], decided[row.id]) for row in rows]

    async def _whole(self, row: ApprovalRow, attempt: AttemptRow, decisions: Sequence[DecisionRow]) -> Request:
        params, rendering = await self._rendered(attempt)
        comments = await self._comments(row.workspace_id, decisions)
        return Request(row, attempt, params, rendering, decisions, comments)

    async def _rendered(self, attempt: AttemptRow) -> tuple[dict[str, Any] | None, Rendering | None]:
        """Return masked parameters and rendering of exactly the step that waits."""
        sealed = await self._vault.open(workspace=attempt.workspace_id, purpose="params", record_id=attempt.id)
        spec = self._catalog.get(attempt.action)
        if sealed is None or spec is None or spec.version != attempt.version:
            return None, None
        try:
            params = spec.params.model_validate_json(sealed)
        except ValidationError:  # stored before a rule of the action became stricter: it does not run any more either
            return None, None
        return spec.redact(params), await asyncio.to_thread(self._render, spec, attempt, params)

    def _render(self, spec: ActionSpec, attempt: AttemptRow, params: BaseModel) -> Rendering:
        step = Step(attempt.action, attempt.version, params, attempt.nonce, attempt.digest)
        return spec.render(step, self._catalog.client(spec.name))

    async def _comments(self, workspace_id: str, decisions: Sequence[DecisionRow]) -> dict[str, str]:
        found: dict[str, str] = {}
        for decision in decisions:
            name = comment_of(decision.approval_id, decision.approver_id, decision.decision)
            said = await self._vault.open(workspace=workspace_id, purpose=COMMENT, record_id=name)
            if said is not None:
                found[decision.approver_id] = said.decode()
        return found


def _cursor(row: ApprovalRow) -> str:
    return f"{'p' if row.status == PENDING else 'e'}.{row.id}"


def _place(cursor: str | None) -> tuple[bool, str]:
    """Return whether a cursor is among what has ended, and the id that it stands at."""
    if cursor is None:
        return False, ""
    part, dot, last = cursor.partition(".")
    if part not in ("p", "e") or not dot or not last or not last.isascii() or not last.isprintable():
        raise BadRequest("This cursor is none that a page was answered with.")
    return part == "e", last
