"""A thousand answers of a model that says anything at all: nothing reaches a connector that was not validated."""

import asyncio
import json
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from relay.core.principal import Principal
from relay.store.target import Target
from tests.chat_model import AnyModel, any_model
from tests.chat_world import ChatWorld, Thing

EXAMPLES = 1_000
ACTIONS = ("thing.read", "thing.put", "thing.wipe")

names = st.one_of(
    st.sampled_from(
        ["thing-read", "thing-put", "thing-wipe", "thing.read", "thing_read", "relay-echo", "", "a b", "x" * 200]
    ),
    st.text(max_size=80),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
good = st.builds(lambda what, count: {"what": what, "count": count}, st.text(min_size=1, max_size=8), st.integers(0, 9))
near = st.dictionaries(st.sampled_from(["what", "count", "secret", "extra", "__proto__"]), values, max_size=4)


def as_text(value: Any) -> str:
    """Return JSON, with NaN where there is one."""
    return json.dumps(value)


arguments = st.one_of(
    good.map(as_text),
    near.map(as_text),
    values.map(as_text),
    st.text(max_size=60),
    good.map(lambda value: as_text(value)[:-1]),
    good.map(lambda value: as_text(value)[:-1] + ', "what": "again"}'),
    st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.just("[" * 5_000),
    st.just("{" + '"what":' * 1_000),
    st.just('{"what": "' + "x" * 70_000 + '"}'),
)
wild = st.tuples(names, arguments)
valid = st.tuples(st.just("thing-read"), good.map(as_text))
calls = st.lists(st.one_of(wild, wild, wild, valid), max_size=6)
answers = st.tuples(st.text(max_size=40), calls)


def test_nothing_unvalidated_reaches_a_connector(sqlite_target: Target, tmp_path: Path) -> None:
    runner = asyncio.Runner()
    opened = any_model(sqlite_target, tmp_path / "data")
    world, model = runner.run(opened.__aenter__())
    agent = runner.run(world.key())
    reached: dict[str, int] = {}

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(said=answers)
    def one(said: tuple[str, list[tuple[str, str]]]) -> None:
        runner.run(turn(world, model, agent, said, reached))

    try:
        one()
    finally:
        runner.run(opened.__aexit__(None, None, None))
        runner.close()
    # Had nothing come through, nothing would have been shown; of the hundreds that are valid this is a small part.
    assert reached["thing.read"] > 20


async def turn(
    world: ChatWorld,
    model: AnyModel,
    agent: Principal,
    said: tuple[str, list[tuple[str, str]]],
    reached: dict[str, int],
) -> None:
    model.said.append(said)
    before = len(world.world.done)
    view = await world.say(agent, "Whatever")
    done = world.world.done[before:]
    assert view.status in ("done", "awaiting_approval"), view.error
    succeeded = [made for made in view.calls if made.status == "succeeded"]
    mine = [made for made in succeeded if made.action in ACTIONS]
    assert [(made.action, made.params["what"]) for made in mine] == [(name, thing.what) for name, thing in done]
    for name, thing in done:
        # The handler's parameters are its model, and policy lets an agent do no more than read without approval.
        assert type(thing) is Thing
        assert 1 <= len(thing.what) <= 200
        assert name == "thing.read"
        reached[name] = reached.get(name, 0) + 1
    if view.status == "awaiting_approval":
        await world.chat.cancel(agent, view.session_id, "req_test_cancel")
