"""What is kept of a question and its answer: digests in the audit trail, and where a setting says so both, sealed."""

import json
from dataclasses import dataclass
from typing import Any, Final

from relay.audit.record import event
from relay.core.canonical import canonical_json
from relay.core.clock import DAY, now
from relay.crypto.digest import sha256_hex
from relay.llm.messages import (
    Function,
    FunctionCall,
    FunctionResult,
    Image,
    Instruction,
    Message,
    ModelMessage,
    Payer,
    Question,
    Usage,
    UserMessage,
)
from relay.settings import Settings
from relay.store.vault import Sealed, Vault
from relay.store.writer import Tx

QUESTION: Final = "model-question"
ANSWER: Final = "model-answer"
"""The purposes of what is sealed; the record is the id of the audit event."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question: ``answered``, ``failed`` or ``cancelled``, by which model, and what it took."""

    outcome: str
    model: str
    usage: Usage
    text: str = ""
    calls: tuple[FunctionCall, ...] = ()
    reason: str = ""


class Records:
    """Makes the audit event of a question, and seals what is to be kept of it."""

    def __init__(self, settings: Settings, vault: Vault) -> None:
        self._vault = vault
        self._keeps = settings.ai_record
        self._retention = settings.retention_days * DAY

    def unit(self, question: Question, payer: Payer, outcome: Outcome) -> "Record":
        """Return what is to be written in the transaction that settles the account."""
        asked, answered = canonical_json(question_form(question)), canonical_json(_answer_form(outcome))
        answer_digest = sha256_hex(answered) if outcome.outcome == "answered" else ""
        details: dict[str, Any] = {
            "purpose": payer.purpose,
            "model": outcome.model,
            "answer_digest": answer_digest,
            "input_tokens": outcome.usage.input_tokens,
            "output_tokens": outcome.usage.output_tokens,
            "cost_billionths": outcome.usage.cost,
            "estimated": outcome.usage.estimated,
        }
        if outcome.reason:
            details["reason"] = outcome.reason
        if payer.session is not None:
            details["session"] = payer.session
        draft = event(
            "llm:question:asked",
            workspace_id=payer.workspace_id,
            principal=payer.principal_id,
            request_id=payer.request_id,
            target=outcome.model,
            digest=sha256_hex(asked),
            outcome=outcome.outcome,
            details=details,
        )
        kept: tuple[Sealed, ...] = ()
        if self._keeps:
            kept = (self._seal(asked, QUESTION, draft.id, payer), self._seal(answered, ANSWER, draft.id, payer))
        return Record(draft, kept)

    def _seal(self, plaintext: bytes, purpose: str, record_id: str, payer: Payer) -> Sealed:
        return self._vault.seal(
            plaintext,
            workspace=payer.workspace_id,
            purpose=purpose,
            record_id=record_id,
            expires_at=now() + self._retention,
        )


@dataclass(frozen=True, slots=True)
class Record:
    """An audit event, and the envelopes that go with it."""

    draft: Any
    kept: tuple[Sealed, ...]

    def write(self, tx: Tx) -> None:
        """Record as part of a unit."""
        for sealed in self.kept:
            Vault.put(tx, sealed)
        tx.record(self.draft)


def question_form(question: Question) -> dict[str, Any]:
    """Return a question as the JSON that its digest is of. Pictures stand in it by their SHA-256."""
    return {
        "messages": [_message_form(message) for message in question.messages],
        "functions": [_function_form(function) for function in question.functions],
        "required": question.required,
        "max_tokens": question.max_tokens,
    }


def _answer_form(outcome: Outcome) -> dict[str, Any]:
    return {"text": outcome.text, "calls": [_call_form(call) for call in outcome.calls]}


def _function_form(function: Function) -> dict[str, Any]:
    # As text, since a schema may hold numbers that have no canonical form.
    schema = json.dumps(function.parameters, sort_keys=True)
    return {"name": function.name, "description": function.description, "parameters": schema}


def _call_form(call: FunctionCall) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": call.arguments}


def _image_form(image: Image) -> dict[str, Any]:
    return {"media_type": image.media_type, "bytes": len(image.data), "sha256": sha256_hex(image.data)}


def _message_form(message: Message) -> dict[str, Any]:
    match message:
        case Instruction(text):
            return {"role": "instruction", "text": text}
        case UserMessage(text, images):
            return {"role": "user", "text": text, "images": [_image_form(image) for image in images]}
        case ModelMessage(text, calls):
            return {"role": "model", "text": text, "calls": [_call_form(call) for call in calls]}
        case FunctionResult(call_id, name, text):
            return {"role": "result", "call_id": call_id, "name": name, "text": text}
