"""What ``relay secrets rotate`` says, run by an operator on a data folder that no server has open."""

import asyncio
import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from relay.core.clock import HOUR, now, parse_iso
from relay.house import House, open_house
from relay.store.target import Target
from relay.store.vault import Sealed
from relay.store.writer import Tx
from tests.audit_kit import own
from tests.gateway import environment, open_gateway, settings_for
from tests.rotation_kit import opened, states

TOP = Path(__file__).parents[2]
KEPT = 3

# Starting the command costs a second; this runs one after another in one process that is not the test's.
SEVERAL = """
import json, sys
from typer.testing import CliRunner
from relay.cli.main import app

def told(done):
    return {"status": done.exit_code, "out": done.stdout, "err": done.stderr}

print(json.dumps([told(CliRunner().invoke(app, ["secrets", "rotate", *c])) for c in json.loads(sys.stdin.read())]))
"""


def rotate(target: Target, data: Path, *commands: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run commands on an installation and return how each ended."""
    ended = subprocess.run(
        [sys.executable, "-c", SEVERAL],
        cwd=data.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{TOP}/src", "HOME": str(data.parent)}
        | environment(target, data),
        input=json.dumps(commands),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    found: list[dict[str, Any]] = json.loads(ended.stdout)
    return found


def put(house: House, sealed: Sealed, tx: Tx) -> None:
    house.vault.put(tx, sealed)


async def test_it_says_which_envelopes_were_not_rewrapped(sqlite_target: Target, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with open_house(settings_for(sqlite_target, data)) as house:
        for number in range(KEPT):
            place = {"workspace": "default", "purpose": "params", "record_id": f"att_{number}"}
            sealed = house.vault.seal(b"x", **place, expires_at=None)
            await house.database.writer.run(partial(put, house, sealed))
        before, _ = await opened(house)
    (ended,) = await asyncio.to_thread(rotate, sqlite_target, data, ())
    async with open_house(settings_for(sqlite_target, data)) as house:
        after, named = await opened(house)
        current = house.envelopes.current
    assert ended["status"] == 0 and named == {current}
    line = re.fullmatch(
        rf"encryption: {current} is the current one; (\d+) envelopes are under it: {before} re-wrapped now, "
        r"the others sealed with it or re-wrapped before\n",
        ended["out"],
    )
    # What is recorded of the new key's beginning is sealed with it, and counted; of the old one's end comes later.
    assert line is not None, ended["out"]
    assert KEPT < before < int(line[1]) < after


async def test_the_status_says_what_each_secret_beside_the_current_one_is(
    sqlite_target: Target, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    async with open_gateway(sqlite_target, data):  # a server makes its webhook secret
        pass
    rotated, status = await asyncio.to_thread(rotate, sqlite_target, data, ("--kind", "webhook"), ("--status",))
    assert rotated["status"] == status["status"] == 0, (rotated, status)
    async with open_house(settings_for(sqlite_target, data)) as house:
        (old,) = [id for id, state in (await states(house, "webhook")).items() if state == "old"]
    told, _, until = status["err"].strip().rpartition(" ")
    assert told == f"webhook {old} is still accepted until" and until in rotated["out"]
    assert abs(parse_iso(until) - now() - 72 * HOUR) < HOUR

    own(sqlite_target, ("UPDATE secret_keys SET ends_at = ? WHERE state = 'old'", (now() - 1,)))
    (status,) = await asyncio.to_thread(rotate, sqlite_target, data, ("--status",))
    assert status["err"] == f"webhook {old} is accepted no more\n"
    for state, said in (
        ("known", "is known, and not used yet"),
        ("old", "is an earlier one, which stays until `relay secrets rotate --kind webhook` has ended"),
    ):
        change = "UPDATE secret_keys SET state = ?, ends_at = NULL WHERE id = ?"
        own(sqlite_target, (change, (state, old)))
        (status,) = await asyncio.to_thread(rotate, sqlite_target, data, ("--status",))
        assert status["err"] == f"webhook {old} {said}\n"
