"""Whatever order seals, stores, rotations, purges and kills come in: everything that is stored opens."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.core.clock import now
from relay.house import House, open_house
from relay.rotation.rotate import RotationRefused
from relay.store.retention import Purge
from relay.store.target import Target, parse_target
from tests.gateway import settings_for
from tests.rotation_kit import opened, rotation_of, states

STEPS = ("announced", "promoted", "settled", "rewrapping", "retired")
ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["seal", "put", "purge", "rotate"]), st.integers(0, 1)),
    st.tuples(st.sampled_from(STEPS), st.integers(0, 1)),
)


class Killed(BaseException):
    """The rotation ends here, as by SIGKILL: nothing that it would do next is done."""


def kill_at(step: str) -> Callable[[str, str], None]:
    def progress(name: str, _what: str) -> None:
        if name == step:
            raise Killed

    return progress


async def play(target: Target, data: Path, actions: list[tuple[str, int]]) -> None:
    async with (
        open_house(settings_for(target, data)) as one,
        open_house(settings_for(target, data)) as two,
    ):
        houses = (one, two)
        waiting: list[tuple[House, Any, bytes]] = []
        stored: dict[str, bytes] = {}
        for number, (action, which) in enumerate(actions):
            house = houses[which]
            if action == "seal":
                place = {"workspace": "default", "purpose": "params", "record_id": f"att_{number}"}
                expires_at = now() - 1 if number % 3 == 0 else None
                plain = f"text {number}".encode()
                waiting.append((house, house.vault.seal(plain, **place, expires_at=expires_at), plain))
            elif action == "put" and waiting:
                await put(*waiting.pop(0), stored)
            elif action == "purge":
                await Purge(house.database.writer).once(now())
                stored = {name: text for name, text in stored.items() if int(name.partition("_")[2]) % 3}
            elif action == "rotate":
                with contextlib.suppress(RotationRefused):
                    await rotation_of(house).encryption()
            elif action in STEPS:
                with contextlib.suppress(Killed, RotationRefused):
                    await rotation_of(house, progress=kill_at(action)).encryption()
            for name, text in stored.items():
                for reading in houses:
                    found = await reading.vault.open(workspace="default", purpose="params", record_id=name)
                    assert found == text, (name, action)
        for late in waiting:
            await put(*late, stored)
        report = await rotation_of(two).encryption()
        assert report.waiting == "" and (await opened(one))[1] == {report.key}
        assert {*(await states(one, "encryption")).values()} <= {"current", "retired"}
    async with open_house(settings_for(target, data)) as fresh:
        assert fresh.envelopes.ids == {report.key}
        await opened(fresh)


async def put(house: House, sealed: Any, plain: bytes, stored: dict[str, bytes]) -> None:
    await house.database.writer.run(lambda tx: house.vault.put(tx, sealed))
    stored[sealed.record_id] = plain


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, min_size=3, max_size=9))
def test_everything_that_is_stored_opens(sqlite_template: Path, actions: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        target = parse_target(None, Path(folder))
        assert target.path is not None
        shutil.copyfile(sqlite_template, target.path)
        target.path.chmod(0o600)
        asyncio.run(play(target, Path(folder) / "data", actions))
