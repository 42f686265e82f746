"""The rest of a key's life on the command line, beside a running server that has to notice within a moment."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.crypto.api_key import new_api_key
from tests.process import Client, GatewayProcess, eventually, gateway_process


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[GatewayProcess]:
    async with gateway_process(tmp_path / "home") as process:
        yield process


async def made(gateway: GatewayProcess, *scopes: str) -> tuple[str, str]:
    """Return id and text of a new agent's key."""
    wanted = [argument for scope in scopes for argument in ("--scope", scope)]
    ran = await gateway.command("key", "create", "--workspace", "default", *wanted, "--json")
    key = json.loads(ran.stdout)
    return str(key["id"]), str(key["key"])


async def status(gateway: GatewayProcess, key: str, wanted: int, path: str = "/actions") -> None:
    """Return once a request with the key is answered so; servers notice within a second."""
    async with Client(gateway, key) as client:

        async def look() -> bool:
            return (await client.get(path)).status == wanted

        await eventually(look)


async def test_a_child_is_minted_and_dies_with_its_parent(gateway: GatewayProcess) -> None:
    parent, _ = await made(gateway, "actions:preview", "actions:execute")
    ran = await gateway.command("key", "child", parent, "--scope", "actions:preview", "--seconds", "600", "--quiet")
    child = ran.stdout.strip()
    assert ran.returncode == 0 and child.startswith("relay_sk_live_") and "\n" not in child
    await status(gateway, child, 200)
    await status(gateway, child, 403, "/audit")
    more = await gateway.command("key", "child", parent, "--scope", "keys:manage", "--quiet")
    assert (more.returncode, more.stdout) == (1, "") and "Traceback" not in more.stderr
    long = await gateway.command("key", "child", parent, "--scope", "actions:preview", "--seconds", "3601")
    assert long.returncode == 2
    assert (await gateway.command("key", "revoke", parent)).returncode == 0
    await status(gateway, child, 401)


async def test_a_key_is_narrowed(gateway: GatewayProcess) -> None:
    key_id, key = await made(gateway, "actions:preview", "audit:read")
    await status(gateway, key, 200, "/audit")
    ran = await gateway.command("key", "narrow", key_id, "--scope", "actions:preview", "--json")
    assert json.loads(ran.stdout) == {"id": key_id, "scopes": ["actions:preview"]}
    await status(gateway, key, 403, "/audit")
    back = await gateway.command("key", "narrow", key_id, "--scope", "audit:read")
    assert back.returncode == 1 and "Traceback" not in back.stderr
    await status(gateway, key, 403, "/audit")


async def test_a_key_is_quarantined_and_released(gateway: GatewayProcess) -> None:
    key_id, key = await made(gateway, "actions:preview")
    ran = await gateway.command("key", "quarantine", key_id)
    assert (ran.returncode, ran.stdout) == (0, f"{key_id} is quarantined\n")
    await status(gateway, key, 401)
    ran = await gateway.command("key", "release", key_id)
    assert (ran.returncode, ran.stdout) == (0, f"{key_id} is live\n")
    await status(gateway, key, 200)
    assert (await gateway.command("key", "release", "key_" + "0" * 32)).returncode == 1


async def test_leaked_keys_are_found_in_any_text(gateway: GatewayProcess, tmp_path: Path) -> None:
    key_id, key = await made(gateway, "actions:preview")
    foreign = new_api_key("live")
    ran = await gateway.command("key", "report-leak", "--json", stdin=f"\ufffd\x00é {key}; {foreign}\n{key}")
    report = json.loads(ran.stdout)
    assert ran.returncode == 0 and report["unknown"] == 1
    assert [(item["id"], item["revoked"]) for item in report["items"]] == [(key_id, True)]
    assert key not in ran.stdout + ran.stderr and foreign not in ran.stdout + ran.stderr
    await status(gateway, key, 401)
    none = await gateway.command("key", "report-leak", stdin="nothing")
    assert (none.returncode, none.stdout) == (1, "") and "no key" in none.stderr


async def test_a_honey_key_is_not_released(gateway: GatewayProcess) -> None:
    ran = await gateway.command(
        "key", "create", "--workspace", "default", "--scope", "actions:preview", "--honey", "--json"
    )
    trap = json.loads(ran.stdout)
    await status(gateway, trap["key"], 401)
    refused = await gateway.command("key", "release", trap["id"])
    assert refused.returncode == 1 and "revoke it and make another" in refused.stderr
    assert (await gateway.command("key", "revoke", trap["id"])).returncode == 0


async def test_turning_off_what_is_not_on_is_told(gateway: GatewayProcess) -> None:
    key_id, _ = await made(gateway, "actions:preview")
    assert (await gateway.command("kill-switch", "on", "--key", key_id)).returncode == 0
    missed = await gateway.command("kill-switch", "off")
    assert missed.returncode == 1 and key_id in missed.stdout and "nothing has changed" in missed.stderr
    assert (await gateway.command("kill-switch", "off", "--key", key_id)).returncode == 0


async def test_a_damaged_database_is_told_in_one_line(tmp_path: Path) -> None:
    async with gateway_process(tmp_path / "home") as process:
        assert await process.stop() == 0
        for damage in (b"no database at all" * 300, b"SQLite format 3\0" + b"\xff" * 8192):
            (process.data / "relay.db").write_bytes(damage)
            for command in (("serve", "--port", "0"), ("key", "list"), ("audit", "verify")):
                ran = await process.command(*command)
                assert ran.returncode == 1 and "Traceback" not in ran.stderr
                assert "restore a backup" in ran.stderr, ran.stderr
