"""``relay audit`` as an operator runs it, on a data folder and beside nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

# Starting the command costs a second; this runs one after another in one process that is not the test's.
SEVERAL = """
import json, sys
from typer.testing import CliRunner
from relay.cli.main import app

def told(done):
    return {"status": done.exit_code, "out": done.stdout, "err": done.stderr}

print(json.dumps([told(CliRunner().invoke(app, command)) for command in json.loads(sys.stdin.read())]))
"""


class Commands:
    """Runs ``relay`` on one data folder, in other processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = folder / "data" / "relay.db"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{TOP}/src",
            "HOME": str(folder),
            "RELAY_DATA_DIR": str(folder / "data"),
            "RELAY_ENV": "test",
        }

    def several(self, *commands: list[str]) -> list[dict]:
        done = subprocess.run(
            [sys.executable, "-c", SEVERAL],
            env=self.environment,
            cwd=self.folder,
            input=json.dumps(commands),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def sql(self, statement: str) -> list:
        import sqlite3
        from contextlib import closing

        with closing(sqlite3.connect(self.database)) as connection, connection:
            return connection.execute(statement).fetchall()


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    made = Commands(tmp_path)
    create = ["key", "create", "--scope", "viewer", "--quiet", "--workspace"]
    for answer in made.several([*create, "one"], [*create, "two"], [*create, "one"]):
        assert answer["status"] == 0, answer
    return made


def test_listing_shows_everything_or_one_workspace(commands: Commands) -> None:
    everything, one, paged, table, *wrong = commands.several(
        ["audit", "list", "--json"],
        ["audit", "list", "--json", "--workspace", "one", "--tag", "identity:*"],
        ["audit", "list", "--json", "--limit", "1", "--tag", "identity:key:created"],
        ["audit", "list", "--limit", "2"],
        ["audit", "list", "--since", "yesterday"],
        ["audit", "list", "--cursor", "x"],
        ["audit", "list", "--workspace", ""],
        ["audit", "list", "--workspace", "\udcff"],
    )
    items = json.loads(everything["out"])["items"]
    assert {"one", "two"} <= {item["workspace_id"] for item in items}
    assert [item["seq"] for item in items] == list(range(len(items), 0, -1))
    assert {item["workspace_id"] for item in json.loads(one["out"])["items"]} == {"one"}
    assert len(json.loads(one["out"])["items"]) == 2
    page = json.loads(paged["out"])
    assert len(page["items"]) == 1 and page["next_cursor"]
    assert len(table["out"].splitlines()) == 3 and "--cursor" in table["err"]
    assert [(answer["status"], answer["out"]) for answer in wrong] == [(2, "")] * 4


def test_verification_of_the_whole_log_and_of_an_export(commands: Commands) -> None:
    head, file = commands.folder / "head.txt", commands.folder / "audit.jsonl"
    signed, exported, piped = commands.several(
        ["audit", "head", "--json"], ["audit", "export", "--output", str(file)], ["audit", "export"]
    )
    note, vkey = json.loads(signed["out"])["note"], json.loads(signed["out"])["vkey"]
    head.write_text(note)
    assert exported["status"] == 0 and vkey in exported["err"] and exported["out"] == ""
    assert file.stat().st_mode & 0o777 == 0o600 and not file.with_name("audit.jsonl.part").exists()
    assert piped["out"].encode() == file.read_bytes()
    pinned = ["audit", "verify", str(file), "--key", vkey]
    whole, told, loose, offline, wrong_key, anchored = commands.several(
        ["audit", "verify", "--json", "--head", str(head)],
        ["audit", "verify"],
        ["audit", "verify", str(file)],
        [*pinned, "--json"],
        [*pinned[:-1], vkey.replace("relay/", "relay/x")],
        [*pinned, "--head", str(head)],
    )
    found = json.loads(whole["out"])
    assert whole["status"] == 0 and found["ok"] and found["heads"] == 2
    assert told["status"] == 0 and told["out"].startswith("ok: ")
    assert loose["status"] == 0 and "the key in the file only" in loose["out"]
    assert offline["status"] == 0 and json.loads(offline["out"])["pinned"] is True
    assert (wrong_key["status"], anchored["status"]) == (1, 0)


def test_a_tampered_log_fails_verification_and_is_not_exported(commands: Commands) -> None:
    head, file = commands.folder / "head.txt", commands.folder / "audit.jsonl"
    (signed,) = commands.several(["audit", "head"])
    head.write_text(signed["out"])
    commands.sql("UPDATE audit_events SET principal = 'somebody' WHERE seq = 2")
    verified, as_json, exported, other = commands.several(
        ["audit", "verify"],
        ["audit", "verify", "--json"],
        ["audit", "export", "--output", str(file)],
        ["audit", "verify", "--head", str(commands.folder / "none")],
    )
    assert verified["status"] == 1 and verified["out"].startswith("NOT ok: event 2")
    assert as_json["status"] == 1 and json.loads(as_json["out"])["problem"]["seq"] == 2
    assert exported["status"] == 1 and "nothing was signed" in exported["err"]
    assert not file.exists() and not file.with_name("audit.jsonl.part").exists()
    assert other["status"] == 2


def test_an_export_is_verified_without_database_and_keys(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "audit.jsonl"
    commands.several(["audit", "export", "--output", str(file)])
    elsewhere = Commands(tmp_path / "elsewhere")
    elsewhere.folder.mkdir()
    good, bad = elsewhere.several(["audit", "verify", str(file)], ["audit", "verify", str(TOP / "pyproject.toml")])
    assert (good["status"], bad["status"]) == (0, 1)
    assert "line 1: this is not an export made by relay audit export" in bad["out"]
    assert list(elsewhere.folder.iterdir()) == []


def test_an_unknown_tag_is_wrong_usage_and_the_known_ones_are_named(commands: Commands) -> None:
    for told in commands.several(["audit", "list", "--tag", "nonsense"], ["audit", "list", "--tag", "nonsense:*"]):
        said = "".join(told["err"].replace("│", "").split())
        assert told["status"] == 2 and "unknowntag;knownare" in said and "gate:action:intent" in said


def test_failures_and_erasing(commands: Commands) -> None:
    commands.sql("INSERT INTO anonymous_failures VALUES (60000000, 'missing_token', '/audit', '192.0.2.0/24', 7)")
    ((event_id,),) = commands.sql("SELECT id FROM audit_events WHERE commitment <> '' ORDER BY seq LIMIT 1")
    failures, table, erased, again, verified, listed = commands.several(
        ["audit", "failures", "--json"],
        ["audit", "failures"],
        ["audit", "erase", event_id, "--yes"],
        ["audit", "erase", event_id, "--yes"],
        ["audit", "verify", "--json"],
        ["audit", "list", "--json", "--q", event_id],
    )
    (item,) = json.loads(failures["out"])["items"]
    assert item == {
        "minute": "1970-01-01T00:01:00.000000Z", "count": 7, "reason": "missing_token", "route": "/audit",
        "block": "192.0.2.0/24",
    }  # fmt: skip
    assert "192.0.2.0/24" in table["out"]
    assert (erased["status"], again["status"]) == (0, 1)
    assert json.loads(verified["out"])["details_erased"] == 1
    tags = [item["tag"] for item in json.loads(listed["out"])["items"]]
    assert tags == ["audit:details:erased", "identity:key:created"]
