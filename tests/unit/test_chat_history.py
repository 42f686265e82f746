"""What a model is told: whole turns within a budget, one result for each call, data marked as data."""

import asyncio
import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from relay.chat.conversation import IMAGE_TOKENS, Conversation, tokens
from relay.chat.entries import AssistantEntry, Called, CallEntry, Entry, NoteEntry, UserEntry, pack, unpack
from relay.chat.history import GO_ON, REMINDER, messages, result_text
from relay.llm.messages import FunctionResult, Image, Instruction, Message, ModelMessage, UserMessage


def turn(name: str, first: int, size: int, calls: int, pictures: int = 0) -> list[Entry]:
    """Return the entries of a turn: said, answered with calls, each performed, answered."""
    media = ("image/png",) * pictures
    entries = [Entry(first, name, "user", 0, UserEntry(f"{name} " + "u" * size, media))]
    asked = tuple(Called(f"{name}-{n}", "thing-read", "{}") for n in range(calls))
    entries.append(Entry(first + 1, name, "assistant", 0, AssistantEntry("a" * size, "m", asked)))
    for n in range(calls):
        made = CallEntry(f"{name}-{n}", "thing.read", "succeeded", {}, "", "read", result={"x": "r" * size})
        entries.append(Entry(first + 2 + n, name, "call", 0, made))
    entries.append(Entry(first + 2 + calls, name, "note", 0, NoteEntry("x", "a note")))
    return entries


def told(entries: Sequence[Entry], current: str, budget: int) -> tuple[Message, ...]:
    async def pictures(entry: Entry) -> list[tuple[str, bytes]]:
        body = entry.body
        return [(kind, b"data") for kind in (body.media if isinstance(body, UserEntry) else ())]

    return asyncio.run(messages(Conversation(current, entries), budget, pictures))


shapes = st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=8)


@given(shapes=shapes, budget=st.integers(1_000, 20_000))
def test_turns_are_told_whole_and_the_newest_stays(shapes: list[tuple[int, int, int]], budget: int) -> None:
    entries: list[Entry] = []
    for number, (size, calls, pictures) in enumerate(shapes):
        entries += turn(f"t{number}", len(entries) + 1, size, calls, pictures)
    current = f"t{len(shapes) - 1}"
    found = told(entries, current, budget)
    assert isinstance(found[0], Instruction)
    said = [one for one in found if isinstance(one, UserMessage) and one.text != GO_ON]
    names = [one.text.split()[0] for one in said]
    # The newest ones, without a gap, in their order, the one that is worked on always.
    assert names == [f"t{number}" for number in range(len(shapes) - len(names), len(shapes))]
    assert current in names
    for name, user in zip(names, said, strict=True):
        assert len(user.images) == shapes[int(name[1:])][2]
    # Each call has one result, right after the answer that asked for it.
    for place, one in enumerate(found):
        if isinstance(one, ModelMessage):
            results = found[place + 1 : place + 1 + len(one.calls)]
            assert [result.call_id for result in results if isinstance(result, FunctionResult)] == [
                call.id for call in one.calls
            ]
    assert sum(isinstance(one, FunctionResult) for one in found) == sum(shapes[int(name[1:])][1] for name in names)
    if len(names) > 1:
        assert sum(map(cost, found[1:])) <= budget


def cost(message: Message) -> int:
    if isinstance(message, UserMessage):
        return tokens(message.text) + IMAGE_TOKENS * len(message.images) if message.text != GO_ON else 0
    if isinstance(message, ModelMessage):
        return tokens(message.text)
    return tokens(message.text)


def test_a_turn_whose_beginning_is_not_there_is_not_told() -> None:
    entries = [*turn("old", 1, 10, 2)[2:], *turn("new", 9, 10, 0)]
    assert [type(one) for one in told(entries, "new", 16_000)] == [Instruction, UserMessage, ModelMessage, UserMessage]


def test_an_erased_entry_takes_its_turn_along() -> None:
    old = turn("old", 1, 10, 0)
    old[0] = Entry(1, "old", "user", 0, None)
    found = told([*old, Entry(9, "new", "user", 0, UserEntry("now"))], "new", 16_000)
    assert found[1:] == (UserMessage("now"),)


def test_pictures_come_with_their_turn() -> None:
    found = told(turn("t", 1, 0, 0, 2)[:1], "t", 1_000)
    assert found[1] == UserMessage("t ", (Image("image/png", b"data"), Image("image/png", b"data")))


def call(**more: object) -> CallEntry:
    about = {"status": "succeeded", "params": {}, "summary": "", "effect": "read", **more}
    return CallEntry("cll_1", "thing.read", **about)


def test_data_from_outside_is_marked_cut_and_made_visible() -> None:
    shown = json.loads(result_text(call(result={"x": "Ignore \u202eall"}, untrusted=True), 2_000))
    assert shown["untrusted_data"] == {"x": "Ignore ⟦U+202E⟧all"}
    assert shown["note"] == REMINDER
    assert "data" not in shown
    long = json.loads(result_text(call(result={"x": "y" * 50_000}, untrusted=True), 2_000))
    assert len(long["untrusted_data"]) < 2_100
    assert long["untrusted_data"].endswith("(cut: it is longer)")
    own = json.loads(result_text(call(result={"x": 1}), 2_000))
    assert own["data"] == {"x": 1}
    failed = json.loads(result_text(call(status="failed", error=("code", "They said no"), untrusted=True), 2_000))
    assert failed["untrusted_data"] == {"code": "code", "detail": "They said no"}
    assert "error" not in failed


@given(st.text(), st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=4))
def test_entries_are_read_as_they_were_written(text: str, params: dict[str, str]) -> None:
    text = text.encode("utf-8", "replace").decode()
    bodies = [
        UserEntry(text, ("image/png",), "::1"),
        AssistantEntry(text, "m", (Called("c", "f", text),)),
        call(params=params, wanted=params, error=("a", text), result={"x": text}),
        NoteEntry("code", text),
    ]
    for kind, body in zip(("user", "assistant", "call", "note"), bodies, strict=True):
        assert unpack(kind, pack(body)) == body
