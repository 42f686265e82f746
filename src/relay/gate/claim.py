"""What an attempt uses up: a preview, an idempotency key, a place in a run; each leads to one attempt at most."""

from relay.core.problem import Gone
from relay.gate.ask import AskerReplaced, Intent
from relay.store.attempts import AttemptRepository
from relay.store.idempotency import IdempotencyRepository, Remembered
from relay.store.previews import PreviewRepository
from relay.store.writer import Tx


class Claim:
    """The claim of one attempt; :meth:`earlier` and :meth:`take` belong into the same unit."""

    def __init__(self, intent: Intent, attempt_id: str, at: int, until: int) -> None:
        principal = intent.principal
        self.attempts = AttemptRepository(principal.workspace_id)
        owners = intent.idempotency.owners if intent.idempotency is not None else ()
        self._keys = IdempotencyRepository(principal.workspace_id, owners)
        self._previews = PreviewRepository(principal.workspace_id, principal.id)
        self._ask = intent.ask
        self._idempotency = intent.idempotency
        self._attempt_id = attempt_id
        self._at = at
        self._until = until

    def earlier(self, tx: Tx) -> Remembered | None:
        """Return the attempt that this request has led to before; 410 when its preview is spent. Writes nothing.

        :class:`~relay.gate.ask.AskerReplaced` when the asker does not hold any more what it asks for.
        """
        ask, idempotency = self._ask, self._idempotency
        if ask.still is not None and not ask.still(tx):
            raise AskerReplaced
        if idempotency is not None and (found := self._keys.find(tx, idempotency.key_hash, self._at)) is not None:
            return found
        if ask.run_id and ask.step_id and (made := self.attempts.of_run_step(tx, ask.run_id, ask.step_id)) is not None:
            return Remembered("", made)
        if ask.preview_id is not None and not self._previews.usable(tx, ask.preview_id, self._at):
            raise Gone("This preview has expired or was used; make a new one.")
        return None

    def take(self, tx: Tx) -> None:
        """Use everything up, in the transaction that inserts the attempt."""
        if self._ask.preview_id is not None and not self._previews.consume(tx, self._ask.preview_id, self._at):
            raise Gone("This preview has expired or was used; make a new one.")
        if self._idempotency is not None:
            self._keys.remember(
                tx,
                key_hash=self._idempotency.key_hash,
                fingerprint=self._idempotency.fingerprint,
                subject_id=self._attempt_id,
                at=self._at,
                expires_at=self._until,
            )
