"""What entered a session, read from its entries, and where the parameters of a call came from."""

import asyncio
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import from_json

from relay.catalog import ActionSpec
from relay.chat.conversation import Conversation, opened
from relay.chat.entries import AssistantEntry, CallEntry, Entry, UserEntry
from relay.chat.origins import SourceIndex, Traced, changed
from relay.core.pointer import pointer_of
from relay.store.chat_reading import ChatReading
from relay.store.vault import Vault

_PAGE: Final = 100
_IN_PLACE: Final = 16_384
"""Characters; what a session of fewer takes to be looked through is less than a thread costs."""


class Sources:
    """The sources of one session: of all its entries, not only of those that a model is told about.

    An entry that was erased after its retention makes what is unknown untrusted, since nobody can say any more what
    stood in it; where that may have been an untrusted result, it may have been anything.
    """

    def __init__(self, *, untrusted: bool = False) -> None:
        self._index = SourceIndex(untrusted=untrusted)
        self._last = 0
        self._asked: dict[str, str] = {}
        self._params: dict[str, tuple[int, dict[str, Any]]] = {}
        self._edited: dict[str, dict[str, int]] = {}
        self._ended: set[tuple[str, int]] = set()

    async def catch_up(self, reading: ChatReading, vault: Vault, session_id: str, conversation: Conversation) -> None:
        """Take in every entry that is not known yet: from the conversation those that it holds, else from the store."""
        while True:
            self.add(conversation.entries)
            if self._last >= conversation.last_seq:
                return
            rows = await reading.entries(session_id, after=self._last, limit=_PAGE)
            if not rows:
                self._index.incomplete(outside=True)
                return
            if rows[0][0].seq != self._last + 1:
                self._index.incomplete(outside=True)
                self._last = rows[0][0].seq - 1
            self.add(opened(vault, rows))

    def add(self, entries: Iterable[Entry]) -> None:
        """Take in the entries that come next, in their order, up to the first gap; what is known is passed over."""
        for entry in entries:
            if entry.seq == self._last + 1:
                self._last = entry.seq
                self._add(entry)

    async def trace(self, spec: ActionSpec | None, call: CallEntry, *, untrusted: bool) -> Traced:
        """Return where the parameters came from with which a call is about to be performed.

        What its owner has edited is the owner's own. ``untrusted``: the session is known to hold content from outside.
        """
        if untrusted:
            self._index.add_outside()
        if self._index.kept < _IN_PLACE:
            return self._traced(spec, call)
        return await asyncio.to_thread(self._traced, spec, call)

    async def trace_edit(self, spec: ActionSpec, call: CallEntry, *, untrusted: bool) -> Traced:
        """Return the same for a call as its owner is about to edit it, which is not among the entries yet.

        These sources are of no use for anything else afterwards.
        """
        self.add([Entry(self._last + 1, "", "call", 0, call)])
        return await self.trace(spec, call, untrusted=untrusted)

    def _traced(self, spec: ActionSpec | None, call: CallEntry) -> Traced:
        declared = frozenset[str]() if spec is None else declared_names(spec.params)
        return self._index.of(call.wanted or {}, declared=declared, edited=self._edited.get(call.id))

    def _add(self, entry: Entry) -> None:
        body = entry.body
        if body is None:
            if entry.kind in ("user", "call"):
                self._index.incomplete(outside=entry.kind == "call")
        elif isinstance(body, UserEntry):
            self._index.add_user(entry.seq, body.text)
            if body.media:
                self._index.add_attachment(entry.seq)
        elif isinstance(body, AssistantEntry):
            self._asked.update((call.id, call.arguments) for call in body.calls)
        elif isinstance(body, CallEntry):
            self._note_edit(entry.seq, body)
            self._add_outcome(body)

    def _note_edit(self, seq: int, call: CallEntry) -> None:
        params = call.params if call.wanted is None else call.wanted
        revision, before = self._params.get(call.id, (call.revision, params))
        if call.revision > revision:
            self._index.add_edited(seq, before, params)
            places = self._edited.setdefault(call.id, {})
            places.update((pointer_of(path), seq) for path, _ in changed(before, params))
        if call.revision > revision or call.id not in self._params:
            self._params[call.id] = (call.revision, params)

    def _add_outcome(self, call: CallEntry) -> None:
        told = call.result if call.result is not None else _told(call)
        if told is None or (call.id, call.revision) in self._ended:
            return
        self._ended.add((call.id, call.revision))
        given = [call.params, self._params[call.id][1], _parsed(self._asked.get(call.id, ""))]
        self._index.add_result(call.attempt_id or call.id, told, untrusted=call.untrusted, params=given)


def _told(call: CallEntry) -> dict[str, Any] | None:
    return {"error": call.error[1]} if call.untrusted and call.error is not None else None


def _parsed(arguments: str) -> Any:
    """Return what a model wrote, as values where it is JSON."""
    try:
        return from_json(arguments)
    except ValueError:
        return arguments


@lru_cache(maxsize=256)
def declared_names(params: type[BaseModel]) -> frozenset[str]:
    """Return every name that an action's parameters give to a member, at any depth."""
    found: set[str] = set()
    waiting: list[Any] = [params.model_json_schema()]
    while waiting:
        schema = waiting.pop()
        if isinstance(schema, dict):
            properties = schema.get("properties")
            found.update(properties if isinstance(properties, dict) else ())
            waiting += schema.values()
        elif isinstance(schema, list):
            waiting += schema
    return frozenset(found)
