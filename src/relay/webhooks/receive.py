"""Receiving webhooks: verify the raw bytes, find copies, store, record. A verified event is stored once or not at all.

A copy is found by what was signed: the id of Standard Webhooks, the event id in a body of Stripe or Slack, else the
digest of the body. Ids in headers that no signature covers (GitHub's delivery id) do not count, since a copy could
bear another one.
"""

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

from relay.audit.record import event
from relay.core.canonical import NotCanonical, canonical_json
from relay.core.clock import DAY, MICROSECONDS, iso, now
from relay.core.event import EventDraft
from relay.core.facts import RequestFacts
from relay.core.ids import new_id
from relay.core.problem import BadSignature, Conflict, Unavailable, UnsupportedMediaType
from relay.core.signed import Evidence, Signed
from relay.crypto.digest import sha256_hex
from relay.crypto.envelope import EnvelopeError, Envelopes
from relay.crypto.webhooks import (
    SIGNATURE_HEADERS,
    Refused,
    Scheme,
    Verified,
    key_of,
    new_secret,
    signed_headers,
    verify,
)
from relay.settings.secret_text import WEBHOOK_PREFIX
from relay.store.database import Database
from relay.store.received import BODY_PURPOSE, Receipt, ReceivedRepository, ReceivedRow
from relay.store.receivers import SECRET_PURPOSE, ReceiverRow, find_for_delivery
from relay.store.vault import Vault
from relay.store.writer import Tx
from relay.telemetry.metrics import Metrics
from relay.webhooks.receive_body import Reading, read_body
from relay.webhooks.types import RECEIVED

OWN_ID: Final = "relay"
OWN_WORKSPACE: Final = "default"
MAX_ANNOUNCED_PAYLOAD: Final = 16 * 1024
REMEMBERED_TIMED: Final = 7 * DAY
REMEMBERED_UNTIMED: Final = 90 * DAY

_ID: Final = re.compile(r"rcv_[0-9a-f]{32}")
_NOBODY: Final = "rcv_" + "0" * 32

log = logging.getLogger("relay.webhooks")


@dataclass(frozen=True, slots=True)
class Accepted:
    """Where an event is. ``duplicate`` says that it was there before and that nothing was done now."""

    event_id: str
    duplicate: bool
    unsigned: bool


@dataclass(frozen=True, slots=True)
class Challenge:
    """What Slack wants to hear back; no event, so nothing was stored."""

    text: str


@dataclass(frozen=True, slots=True)
class _Party:
    """Who may have signed. ``known`` is False for the stand-in of a receiver that is not there."""

    id: str
    workspace_id: str
    name: str
    scheme: Scheme
    secrets: tuple[str, ...] = field(repr=False)
    known: bool = True

    def keys(self) -> list[bytes]:
        return [key_of(self.scheme, secret) for secret in self.secrets]


class Receiving:
    """What receivers of one database are sent.

    ``own_secrets`` returns the secrets that ``/webhooks/relay`` accepts at a moment, none when there are none;
    ``legacy_end`` is the moment from which a legacy one is refused. ``retention`` is how long events are kept, in
    microseconds. ``may_skip`` says of a request that it needs no signature: never, but where the operator allows that
    on this machine.
    """

    def __init__(
        self,
        database: Database,
        envelopes: Envelopes,
        vault: Vault,
        *,
        own_secrets: Callable[[int], Sequence[str]],
        legacy_end: int | None,
        retention: int,
        may_skip: Callable[[RequestFacts], bool],
        metrics: Metrics | None = None,
    ) -> None:
        self._received = (metrics or Metrics.off()).counter("relay_webhooks_received_total")
        self._database = database
        self._envelopes = envelopes
        self._vault = vault
        self._own_secrets = own_secrets
        self._legacy_end = legacy_end
        self._retention = retention
        self._may_skip = may_skip
        self._decoy = envelopes.seal(new_secret().encode(), workspace="", purpose=SECRET_PURPOSE, record=_NOBODY)

    async def verify(self, facts: RequestFacts, evidence: Evidence) -> Signed:
        """Return the body if one of the receiver's live secrets signed it, or if nobody need have.

        :class:`BadSignature` for everything else: a receiver that is not there, disabled or past its legacy date goes
        the same way as a wrong signature, with the same look-ups and as much work. 503 where ``/webhooks/relay`` has no
        secret, or the database does not answer. Total over whatever bytes were sent.
        """
        given = evidence.parameters.get("receiver")
        if given is None and not self._own_secrets(now()):
            raise Unavailable("WEBHOOK_SIGNING_SECRET is not set, so nothing can be verified here.", retry_after=60)
        body = await evidence.read()
        at = now()
        parties = self._installation(at) if given is None else [await self._party(str(given), at)]
        # Every secret is tried, so that time does not tell which one of them signed.
        verdicts = [_verdict(party, facts, body, at) for party in parties]
        chosen = next((number for number, found in enumerate(verdicts) if isinstance(found, Verified)), 0)
        party, verdict = parties[chosen], verdicts[chosen]
        if not party.known:
            raise BadSignature(reason="unknown_receiver")
        if isinstance(verdict, Verified):
            return _signed(party, body, verdict)
        if self._may_skip(facts) and not any(name in SIGNATURE_HEADERS for name, _ in facts.headers):
            return _signed(party, body, Verified(), unsigned=True)
        raise BadSignature(reason=f"signature_{verdict.reason}")

    async def accept(self, signed: Signed, facts: RequestFacts, *, principal: str = "") -> Accepted | Challenge:
        """Store what was signed, with its receipt and audit event, in one transaction; or find what came first.

        The audit event says that ``principal`` did it, by default the receiver. 400 and 415 for a body that is not what
        receivers take (:func:`read_body`); then nothing is stored.
        """
        if facts.repeats(b"content-encoding"):
            raise UnsupportedMediaType("Send the body without a content encoding.")
        reading = read_body(cast(Scheme, signed.scheme), facts.header, signed.body)
        if reading.challenge is not None:
            return Challenge(reading.challenge)
        at = now()
        row = self._row(signed, reading, facts.request_id, at)
        receipt = _receipt(signed, reading, row)
        draft = _draft(signed, reading, row, principal or row.receiver_id)
        body = self._vault.seal(
            signed.body,
            workspace=row.workspace_id,
            purpose=BODY_PURPOSE,
            record_id=row.id,
            expires_at=row.expires_at,
        )
        repository = ReceivedRepository(row.workspace_id)

        def unit(tx: Tx) -> str | None:
            if (first := receipt.take(tx, at)) is not None:
                return first
            repository.insert(tx, row)
            self._vault.put(tx, body)
            tx.record(draft)
            return None

        first = await self._database.writer.run(unit)
        if first is not None:  # what was stored is counted with its audit event
            self._received.add("true")
        return Accepted(first or row.id, first is not None, signed.unsigned)

    async def try_out(self, receiver: ReceiverRow, principal: str, request_id: str) -> Accepted:
        """Sign a ``webhook.test`` event with the receiver's newest secret, verify and accept it as if it had come.

        409 for a receiver that is disabled or past its legacy date.
        """
        at = now()
        party = await self._party(receiver.id, at)
        if not party.known or party.workspace_id != receiver.workspace_id:
            raise Conflict("This receiver accepts nothing now: it is disabled, or its legacy date has passed.")
        body = canonical_json({"type": "webhook.test", "timestamp": iso(at), "data": {"id": new_id("msg")}})
        headers = signed_headers(party.scheme, party.secrets[0], body, id=new_id("msg"), timestamp=at // MICROSECONDS)
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        facts = RequestFacts(request_id, "", "POST", [*raw, (b"content-type", b"application/json")])
        verdict = verify(party.scheme, party.keys(), facts.header, body, now=at)
        if isinstance(verdict, Refused):
            raise Conflict("This receiver does not verify what its own secret has signed.")
        accepted = await self.accept(_signed(party, body, verdict), facts, principal=principal)
        assert isinstance(accepted, Accepted)
        return accepted

    def _installation(self, at: int) -> list[_Party]:
        """Return who may sign for ``/webhooks/relay``: one party for each of its secrets."""
        parties = list(map(_own, self._own_secrets(at)))
        return [
            self._stand_in() if party.scheme == "legacy" and at >= (self._legacy_end or 0) else party
            for party in parties
        ] or [self._stand_in()]

    async def _party(self, receiver_id: str, at: int) -> _Party:
        wanted = receiver_id if _ID.fullmatch(receiver_id) else _NOBODY
        found = await find_for_delivery(self._database.reader, wanted, at)
        if found is None or (found.row.legacy_until is not None and at >= found.row.legacy_until):
            return self._stand_in()
        row = found.row
        secrets = tuple(self._open(body, row.workspace_id, secret_id) for secret_id, body in found.secrets)
        return _Party(row.id, row.workspace_id, row.name, cast(Scheme, row.scheme), secrets)

    def _stand_in(self) -> _Party:
        # It costs what a real one costs, so that time does not tell which receivers there are.
        return _Party(_NOBODY, "", "", "standard", (self._open(self._decoy, "", _NOBODY),), known=False)

    def _open(self, body: bytes, workspace_id: str, secret_id: str) -> str:
        try:
            opened = self._envelopes.open(body, workspace=workspace_id, purpose=SECRET_PURPOSE, record=secret_id)
        except EnvelopeError as error:
            log.error("the secret %s of a webhook receiver does not open: %s", secret_id, error)
            raise Unavailable("The receiver's secret cannot be read now.") from None
        return opened.decode()

    def _row(self, signed: Signed, reading: Reading, request_id: str, at: int) -> ReceivedRow:
        return ReceivedRow(
            id=new_id("evt"),
            workspace_id=signed.workspace_id,
            receiver_id=signed.receiver_id,
            receiver_name=signed.receiver_name,
            scheme=signed.scheme,
            type=reading.type,
            content_type=reading.content_type,
            size=len(signed.body),
            signed_id=signed.signed_id or reading.id,
            signed_at=signed.signed_at,
            unsigned=int(signed.unsigned),
            request_id=request_id,
            received_at=at,
            expires_at=at + self._retention,
        )


def _verdict(party: _Party, facts: RequestFacts, body: bytes, at: int) -> Verified | Refused:
    if party.scheme == "legacy" and facts.repeats(b"x-webhook-version"):
        return Refused("malformed")
    return verify(party.scheme, party.keys(), facts.header, body, now=at)


def _own(secret: str) -> _Party:
    scheme: Scheme = "standard" if secret.startswith(WEBHOOK_PREFIX) else "legacy"
    return _Party(OWN_ID, OWN_WORKSPACE, OWN_ID, scheme, (secret,))


def _signed(party: _Party, body: bytes, verdict: Verified, *, unsigned: bool = False) -> Signed:
    return Signed(party.workspace_id, party.id, party.name, party.scheme, body, verdict.id, verdict.signed_at, unsigned)


def _receipt(signed: Signed, reading: Reading, row: ReceivedRow) -> Receipt:
    timed = signed.signed_at is not None
    name = signed.signed_id or reading.id
    mark = f"id:{name}" if name is not None else f"body:{sha256_hex(signed.body)}"
    if signed.unsigned:
        # What nobody signed must not take the place of what somebody will.
        mark = f"unsigned:{sha256_hex(signed.body)}"
    kept = REMEMBERED_TIMED if timed or signed.unsigned else REMEMBERED_UNTIMED
    return Receipt(signed.receiver_id, mark, row.id, row.received_at + kept)


def _draft(signed: Signed, reading: Reading, row: ReceivedRow, principal: str) -> EventDraft:
    return event(
        "webhooks:event:received",
        workspace_id=row.workspace_id,
        principal=principal,
        request_id=row.request_id,
        target=row.id,
        details={
            "receiver": row.receiver_id,
            "scheme": row.scheme,
            "type": row.type,
            "signed_id": row.signed_id,
            "unsigned": signed.unsigned,
            "size": row.size,
            "sha256": sha256_hex(signed.body),
        },
        notice=_notice(signed, reading, row),
    )


def _notice(signed: Signed, reading: Reading, row: ReceivedRow) -> dict[str, Any] | None:
    """Return what the workspace's endpoints are told; None for an event that tells of another received one.

    An endpoint that leads back to a receiver would otherwise keep one event going round for ever.
    """
    if reading.type == RECEIVED:
        return None
    notice = {
        "event_id": row.id,
        "receiver_id": row.receiver_id,
        "receiver_name": row.receiver_name,
        "scheme": row.scheme,
        "event_type": row.type,
        "unsigned": signed.unsigned,
        "received_at": iso(row.received_at),
    }
    if row.size < MAX_ANNOUNCED_PAYLOAD and _is_canonical(reading.value):
        notice["payload"] = reading.value
    return notice


def _is_canonical(value: Any) -> bool:
    # What has no canonical form cannot be signed and sent again as the same value.
    try:
        canonical_json(value)
    except NotCanonical:
        return False
    return True
