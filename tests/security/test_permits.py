"""The fourth lock: a connector runs with a permit of the gate, once, in time, for its own action, and not without."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from relay.catalog import Connector, Rendering
from relay.core.action import Step
from relay.core.permit import Permit, PermitRefused, void_permit
from relay.engine import build_catalog
from relay.gate.ask import Ask, Intent
from relay.gate.execute import execute
from relay.settings import load_settings
from tests.outside import ALLOWED, WHO, make_permit, make_step

ACTION = "test.poke"
ASK = Ask("req_1", "")


class Poke(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = ""


class Poked(BaseModel):
    text: str


class World:
    """What happened outside."""

    def __init__(self) -> None:
        self.effects = 0
        self.permits: list[Permit] = []


def poke_connector() -> Connector:
    connector = Connector("test")

    @connector.action(ACTION, effect="write", render=lambda step, client: Rendering("Poke.", {}), timeout=1.0)
    async def poke(permit: Permit, params: Poke, client: World) -> Poked:
        """Poke the world."""
        client.permits.append(permit)
        if params.text == "late":
            await asyncio.sleep(0.05)
            permit.ensure_live()
        client.effects += 1
        return Poked(text=params.text)

    return connector


POKE = poke_connector().actions[ACTION].handler


def permit_for(action: str = ACTION, *, seconds: float = 30.0) -> Permit:
    return make_permit(make_step(action, Poke()), seconds=seconds)


def _voided() -> Permit:
    permit = permit_for()
    void_permit(permit)
    return permit


NO_PERMIT: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "a look-alike": lambda: SimpleNamespace(redeem=lambda action: None, ensure_live=lambda: None, step=None),
    "an empty one": lambda: object.__new__(Permit),
    "of another action": lambda: permit_for("test.other"),
    "expired": lambda: permit_for(seconds=0.0),
    "withdrawn": _voided,
}


@pytest.mark.parametrize("name", NO_PERMIT)
async def test_a_connector_refuses_what_is_no_live_permit(name: str) -> None:
    world = World()
    with pytest.raises(PermitRefused):
        await POKE(NO_PERMIT[name](), Poke(), world)
    assert world.effects == 0


async def test_a_permit_is_used_once() -> None:
    world, permit = World(), permit_for()
    await POKE(permit, Poke(), world)
    with pytest.raises(PermitRefused):
        await POKE(permit, Poke(), world)
    assert world.effects == 1


async def test_a_permit_that_was_shown_to_another_action_is_used_up() -> None:
    world, permit = World(), permit_for("test.other")
    with pytest.raises(PermitRefused):
        await POKE(permit, Poke(), world)
    with pytest.raises(PermitRefused):
        permit.redeem("test.other")


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps, lambda permit: permit.__reduce_ex__(4)])
def test_a_permit_cannot_be_copied(duplicate: Callable[[Permit], Any]) -> None:
    with pytest.raises(PermitRefused):
        duplicate(permit_for())


async def test_a_permit_copied_by_hand_is_none() -> None:
    world, permit = World(), permit_for()
    twin = object.__new__(Permit)
    for name in Permit.__slots__:
        object.__setattr__(twin, name, getattr(permit, name))
    with pytest.raises(PermitRefused):
        await POKE(twin, Poke(), world)
    await POKE(permit, Poke(), world)
    assert world.effects == 1


def test_a_permit_cannot_be_made_changed_or_derived() -> None:
    with pytest.raises(PermitRefused):
        Permit(object(), step=None)
    with pytest.raises(PermitRefused):
        permit_for().deadline = 1e12
    with pytest.raises(PermitRefused):
        type("Mine", (Permit,), {"redeem": lambda self, action: None})


async def test_the_lease_is_looked_at_again_before_anything_leaves() -> None:
    world = World()
    with pytest.raises(PermitRefused):
        await POKE(permit_for(seconds=0.02), Poke(text="late"), world)
    assert world.effects == 0


async def test_every_action_of_the_catalogue_wants_a_permit(tmp_path: Path) -> None:
    settings = load_settings({"RELAY_ENV": "test", "RELAY_DATA_DIR": str(tmp_path)}, cwd=tmp_path)
    catalog = build_catalog(settings, ("127.0.0.1", 8000))
    specs = list(catalog)
    assert len(specs) >= 4
    for spec in specs:
        for make in NO_PERMIT.values():
            with pytest.raises(PermitRefused):
                await spec.handler(make(), None, catalog.client(spec.name))


async def run(step: Step, world: World) -> Any:
    spec = poke_connector().actions[ACTION]
    intent = Intent(WHO, ASK, spec, step, ALLOWED, 0)
    return await execute(intent, world, attempt_id="att_1", deadline=permit_for().deadline)


async def test_the_permit_of_an_attempt_is_worth_nothing_afterwards() -> None:
    world = World()
    outcome = await run(make_step(ACTION, Poke(text="a")), world)
    assert outcome.status == "succeeded"
    [kept] = world.permits
    with pytest.raises(PermitRefused):
        await POKE(kept, Poke(), world)
    assert world.effects == 1


async def test_a_permit_that_was_not_redeemed_is_withdrawn() -> None:
    kept: list[Permit] = []
    spec = poke_connector().actions[ACTION]

    async def keeps(permit: Permit, params: Any, client: Any) -> BaseModel:
        kept.append(permit)
        return Poked(text="")

    # As a connector would be that did not come through its decorator.
    object.__setattr__(spec, "handler", keeps)
    intent = Intent(WHO, ASK, spec, make_step(ACTION, Poke()), ALLOWED, 0)
    await execute(intent, None, attempt_id="att_1", deadline=permit_for().deadline)
    with pytest.raises(PermitRefused):
        await POKE(kept[0], Poke(), World())
