"""Previews: what will really happen, sealed, bound to one principal, used once."""

from typing import Final

from pydantic import ValidationError
from pydantic_core import to_json

from relay.audit.record import event
from relay.catalog import ActionSpec
from relay.core.action import Step
from relay.core.clock import now
from relay.core.ids import new_id
from relay.core.principal import Principal
from relay.core.problem import Gone, NotFound
from relay.gate.ask import Ask, Considered, Intent, PreviewState
from relay.gate.checks import Checks
from relay.gate.validate import make_step
from relay.store.database import Database
from relay.store.idempotency import IdempotencyRepository, Remembered
from relay.store.lines import Lines
from relay.store.previews import PreviewRepository, PreviewRow
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx

SEEN: Final = "preview-seen"


class Previews:
    """Makes and opens previews. ``ttl`` is in microseconds."""

    def __init__(self, database: Database, vault: Vault, checks: Checks, *, ttl: int) -> None:
        self._database = database
        self._vault = vault
        self._checks = checks
        self._ttl = ttl
        self._lines = Lines(database.reader)

    async def make(
        self,
        principal: Principal,
        considered: Considered,
        *,
        request_id: str,
        client: str,
        seen_version: str | None = None,
    ) -> PreviewState:
        """Store a considered step, with the version of what it changes, and record its decision."""
        at, preview_id, step = now(), new_id("prv"), considered.step
        sealed = [self._seal(principal, "preview", preview_id, to_json(step.params), at)]
        if seen_version is not None:
            sealed.append(self._seal(principal, SEEN, preview_id, seen_version.encode(), at))
        decision = considered.decision
        draft = event(
            "gate:preview:made",
            workspace_id=principal.workspace_id,
            principal=principal.id,
            request_id=request_id,
            target=preview_id,
            action=step.action,
            decision=f"{decision.effect} {decision.policy_id}@{decision.policy_version}",
            digest=step.digest,
        )
        previews = PreviewRepository(principal.workspace_id, principal.id)
        intent = Intent(principal, Ask(request_id, client), considered.spec, step, decision, at)
        record = self._checks.record(intent, at, "preview")

        def unit(tx: Tx) -> None:
            previews.insert(
                tx,
                id=preview_id,
                action=step.action,
                version=step.version,
                nonce=step.nonce,
                digest=step.digest,
                created_at=at,
                expires_at=at + self._ttl,
            )
            for envelope in sealed:
                self._vault.put(tx, envelope)
            if record is not None:
                record.put(tx)
            tx.record(draft)

        await self._database.writer.run(unit)
        return PreviewState(preview_id, considered, at + self._ttl, seen_version)

    def _seal(self, principal: Principal, purpose: str, preview_id: str, plaintext: bytes, at: int) -> Sealed:
        return self._vault.seal(
            plaintext,
            workspace=principal.workspace_id,
            purpose=purpose,
            record_id=preview_id,
            expires_at=at + self._ttl,
        )

    async def seen(self, principal: Principal, preview_id: str) -> str | None:
        """Return the version that a preview has found of what its step changes, None where it found none."""
        found = await self._vault.open(workspace=principal.workspace_id, purpose=SEEN, record_id=preview_id)
        return None if found is None else found.decode()

    async def owners(self, principal: Principal) -> tuple[str, ...]:
        """Return the ids under which a principal's idempotency keys are kept."""
        return await self._lines.owners(principal)

    async def remembered(self, workspace_id: str, owners: tuple[str, ...], key_hash: str) -> Remembered | None:
        """Return what an idempotency key of these owners stands for."""
        keys = IdempotencyRepository(workspace_id, owners)
        return await keys.look_up(self._database.reader, key_hash, now())

    async def open(self, principal: Principal, preview_id: str) -> tuple[PreviewRow, bytes]:
        """Return a usable preview and its parameters: 404 when it is not this principal's, 410 when it is spent."""
        row = await PreviewRepository(principal.workspace_id, principal.id).get(self._database.reader, preview_id)
        if row is None:
            raise NotFound("There is no such preview of yours.")
        params = await self._vault.open(workspace=principal.workspace_id, purpose="preview", record_id=preview_id)
        if row.used_at is not None or row.expires_at <= now() or params is None:
            raise Gone("This preview has expired or was used; make a new one.")
        return row, params

    @staticmethod
    def step(principal: Principal, spec: ActionSpec, row: PreviewRow, params: bytes) -> Step:
        """Return exactly the step that was previewed; 410 when it would not be the same any more."""
        if spec.version != row.version:
            raise Gone("The action has changed since this preview; make a new one.")
        try:
            model = spec.params.model_validate_json(params)
        except ValidationError:
            raise Gone("The action's rules have changed since this preview; make a new one.") from None
        step = make_step(principal, spec, model, row.nonce)
        if step.digest != row.digest:
            raise Gone("This preview does not match what it would run; make a new one.")
        return step
