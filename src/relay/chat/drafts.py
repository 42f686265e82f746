"""Calls that wait, in the hands of their session's owner: looked at, edited, withdrawn."""

import contextlib
from dataclasses import dataclass, replace
from typing import Any, Final

from relay.approvals.decide import Decisions
from relay.audit.record import event
from relay.catalog import ActionSpec
from relay.chat.beginning import require_room
from relay.chat.conversation import Conversation
from relay.chat.entries import CallEntry, TurnEntry, pack
from relay.chat.functions import may_run, usable
from relay.chat.journal import FINISHED, Claim, Journal
from relay.chat.lease import new_holder
from relay.chat.looking import Looking
from relay.chat.performing import Performing
from relay.chat.sources import Sources
from relay.core.circumstances import Circumstances
from relay.core.clock import now
from relay.core.principal import Principal
from relay.core.problem import Conflict, Denied, EgressDenied, InsufficientScope, Invalid, NotFound, Problem
from relay.gate.authenticate import Credentials
from relay.gate.hold import Holds
from relay.gate.perform import Performer
from relay.gate.validate import valid_params
from relay.store.approvals import ApprovalRepository, ApprovalRow
from relay.store.chat import CallRow, ChatRepository, SessionRow, TurnRow
from relay.store.chat_reading import turn_of_any_workspace
from relay.store.database import Database
from relay.store.vault import Vault
from relay.store.writer import Tx

NO_CALL: Final = "There is no such call in this session."
_NOT_WAITING: Final = "This call does not wait for approval (any more)."


@dataclass(frozen=True, slots=True)
class Draft:
    """A call that waits, as it is stored, and who may change it."""

    session: SessionRow
    row: CallRow
    call: CallEntry


@dataclass(frozen=True, slots=True)
class Edit:
    """What somebody wants instead of a draft."""

    params: dict[str, Any]
    request_id: str
    client: str


class Drafts:
    """Changes calls that wait. Every rule about requests for approval is that of ``Decisions`` and ``Holds``."""

    def __init__(
        self,
        database: Database,
        vault: Vault,
        gate: Performer,
        decisions: Decisions,
        journal: Journal,
        looking: Looking,
        performing: Performing,
        credentials: Credentials,
        *,
        context_tokens: int,
        actions_enabled: bool,
    ) -> None:
        self._database = database
        self._vault = vault
        self._gate = gate
        self._decisions = decisions
        self._holds: Holds = gate.holds
        self._journal = journal
        self._looking = looking
        self._performing = performing
        self._credentials = credentials
        self._context_tokens = context_tokens
        self._actions_enabled = actions_enabled

    async def find(self, session: SessionRow, call_id: str) -> Draft:
        """Return a call of a session as it stands, taking in what has become of it; 404 when there is none."""
        reading = self._looking.reading(session.workspace_id)
        row = await reading.call(session.id, call_id)
        call = None if row is None else await self._looking.call_entry(row)
        if row is None or call is None:
            raise NotFound(NO_CALL)
        if not call.waits:
            return Draft(session, row, call)
        done = await self._performing.looked_at(self._looking.spec(row.action), row, call)
        if done is None:
            return Draft(session, row, call)
        await self._journal.moved(row, done)
        row = await reading.call(session.id, call_id) or row
        return Draft(session, row, await self._looking.call_entry(row) or done)

    async def edit(self, principal: Principal, draft: Draft, edit: Edit) -> Claim:
        """Put other parameters into a call that waits for approval: what it asked for is withdrawn in the same step.

        Returns the turn, held by this process, whose next step is to perform the call. Refuses as
        :meth:`relay.chat.service.Chat.edit_call` says.
        """
        request = await self._pending(draft)
        spec = await self._spec(principal, draft.call.action)
        due = await self._considered(principal, draft, spec, edit)
        rows, row, size = ChatRepository(principal.workspace_id), draft.row, len(pack(due))
        drafted = event(
            "chat:call:edited",
            workspace_id=principal.workspace_id,
            principal=principal.id,
            request_id=edit.request_id,
            target=row.id,
            action=row.action,
            digest=draft.call.digest or "",
        )

        def unit(tx: Tx) -> Claim | None:
            session, turn = self._waiting(tx, rows, draft)
            require_room(session, size)
            withdrawn = self._decisions.withdraw_in(tx, principal, request, edit.request_id)
            if withdrawn.status != "withdrawn":
                return None  # its time was over: it has ended as expired
            turn = replace(
                turn,
                status="running",
                holder=new_holder(),
                lease_until=self._journal.lease_end(),
                fence=turn.fence + 1,
            )
            rows.set_turn(tx, turn)
            pen = self._journal.pen(tx, replace(session, credential_id=principal.credential_id))
            pen.write(turn.id, TurnEntry("running"))
            pen.write_call(row, due)
            pen.keep()
            tx.record(drafted)
            return Claim(pen.session, turn)

        claim = await self._journal.write(unit, row.session_id)
        if claim is None:
            raise Conflict(_NOT_WAITING, call_status="expired")
        return claim

    async def _pending(self, draft: Draft) -> ApprovalRow:
        row = draft.row
        if row.status != "pending_approval" or row.approval_id is None:
            raise Conflict(_NOT_WAITING, call_status=row.status)
        request = await ApprovalRepository(row.workspace_id).get(self._database.reader, row.approval_id)
        if request is None:
            raise Conflict(_NOT_WAITING, call_status=row.status)
        return request

    async def _spec(self, principal: Principal, action: str) -> ActionSpec:
        visible = usable(principal, await self._gate.visible(principal)) if self._actions_enabled else []
        spec = next((spec for spec in visible if spec.name == action), None)
        if spec is None:
            raise Denied("This action cannot be used (any more).")
        if not may_run(principal, spec):
            required = frozenset({"actions:execute", spec.scope})
            raise InsufficientScope(principal.missing(required), required)
        return spec

    async def _considered(self, principal: Principal, draft: Draft, spec: ActionSpec, edit: Edit) -> CallEntry:
        """Return the call with other parameters, due; what is not valid or not allowed is refused here."""
        valid_params(spec, edit.params)
        call = replace(
            draft.call,
            revision=draft.call.revision + 1,
            attempt_id=None,
            approval_id=None,
            digest=None,
            expires_at=None,
            preview=None,
            summary=spec.summary,
        )
        due = self._performing.due(call, spec, edit.params)
        turn = await turn_of_any_workspace(self._database.reader, draft.row.turn_id)
        if due.wanted is None or turn is None:
            raise Invalid("The parameters are not valid.", errors=[{"pointer": "/params", "message": "is not valid"}])
        reading = self._looking.reading(principal.workspace_id)
        conversation = await Conversation.load(reading, self._vault, draft.session, turn, self._context_tokens)
        sources = Sources()
        await sources.catch_up(reading, self._vault, draft.session.id, conversation)
        traced = await sources.trace_edit(spec, due, untrusted=bool(draft.session.untrusted))
        circumstances = Circumstances(now(), edit.client, untrusted_content=traced.untrusted, origins=traced.origins)
        considered = await self._gate.consider(
            principal, spec.name, edit.params, circumstances=circumstances, request_id=edit.request_id
        )
        if considered.decision.effect == "deny":
            decision = considered.decision
            if considered.rendering.refusal is not None:
                raise EgressDenied(considered.rendering.refusal, code="egress_denied")
            raise Denied(decision.reason, policy_id=decision.policy_id, policy_version=decision.policy_version)
        return due

    @staticmethod
    def _waiting(tx: Tx, rows: ChatRepository, draft: Draft) -> tuple[SessionRow, TurnRow]:
        session, row = rows.lock(tx, draft.session.id), rows.call(tx, draft.row.id)
        turn = rows.turn(tx, draft.row.turn_id)
        if session is None or row is None or turn is None:
            raise NotFound(NO_CALL)
        if row != draft.row or turn.status != "awaiting_approval":
            raise Conflict("The call or its turn has moved on; look at it again.", call_status=row.status)
        if any(other.status == "running" for other in rows.unfinished(tx, session.id)):
            raise Conflict("A turn of this session is running; edit when it has ended.")
        return session, turn

    async def withdraw(self, principal: Principal, draft: Draft, request_id: str) -> Draft:
        """Withdraw a call that waits for approval or is held back, and return it as it stands; 409 for any other."""
        row = draft.row
        await self._withdrawn(principal, row.status, row.approval_id, row.attempt_id, request_id)
        return await self.find(draft.session, row.id)

    async def _withdrawn(
        self, principal: Principal, status: str, approval_id: str | None, attempt_id: str | None, request_id: str
    ) -> None:
        if status == "pending_approval" and approval_id is not None:
            await self._decisions.withdraw(principal, approval_id, request_id)
        elif status == "running" and attempt_id is not None:
            await self._holds.recall(principal, attempt_id, request_id)
        else:
            raise Conflict("This call does not wait (any more).", call_status=status)

    async def withdraw_of(self, claim: Claim) -> None:
        """Withdraw whatever waits of a turn that somebody has asked to end."""
        session = claim.session
        principal = await self._credentials.reload(session.credential_id)
        if principal is not None:  # what a dead credential has asked for never runs
            await self.withdraw_all(principal, session, claim.turn, claim.turn.request_id)

    async def withdraw_left(self, principal: Principal, claim: Claim, call: CallEntry) -> None:
        """Withdraw a call that has begun to wait when its turn was over, or gone with its session, already."""
        turn = await turn_of_any_workspace(self._database.reader, claim.turn.id)
        if not call.waits or (turn is not None and turn.status not in FINISHED):
            return
        with contextlib.suppress(Problem):  # decided, or begun, meanwhile: that counts
            await self._withdrawn(principal, call.status, call.approval_id, call.attempt_id, claim.turn.request_id)

    async def withdraw_all(self, principal: Principal, session: SessionRow, turn: TurnRow, request_id: str) -> None:
        """Withdraw whatever of a turn waits. What does not wait any more, or has begun, is left as it is."""
        for row in await self._looking.reading(session.workspace_id).calls(turn):
            if row.status in ("pending_approval", "running") and row.attempt_id is not None:
                try:
                    draft = await self.find(session, row.id)
                    if draft.call.waits:
                        await self.withdraw(principal, draft, request_id)
                except Problem:  # decided, expired or begun meanwhile: that counts
                    continue

    async def withdraw_unrecorded(
        self, principal: Principal, session: SessionRow, turn: TurnRow, request_id: str
    ) -> None:
        """Withdraw what calls of a turn wait for that whoever worked on it has asked for, and died before it said so.

        A call that runs elsewhere at this moment is waited for a while.
        """
        workspace = session.workspace_id
        for row in await self._looking.reading(workspace).calls(turn):
            call = await self._looking.call_entry(row) if row.status == "running" and row.attempt_id is None else None
            if call is None or not call.is_due:
                continue
            with contextlib.suppress(Problem):  # decided, expired or begun meanwhile: that counts
                done = await self._performing.done_before(workspace, session.credential_id, call)
                if done is not None and done.waits:
                    await self._withdrawn(principal, done.status, done.approval_id, done.attempt_id, request_id)
