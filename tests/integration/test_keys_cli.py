"""``relay key`` as an operator runs it: a process of its own, on a data folder or beside a running server."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from relay.cli.key import app
from relay.core.clock import parse_iso
from relay.crypto.api_key import parse_api_key
from relay.settings.secret_text import generate_kek, generate_secret_key

TOP = Path(__file__).parents[2]
DAY = 86_400 * 1_000_000


# Starting the command costs a second; this runs one after another in one process that is not the test's.
SEVERAL = """
import json, sys
from typer.testing import CliRunner
from relay.cli.main import app

def told(done):
    return {"status": done.exit_code, "out": done.stdout, "err": done.stderr}

print(json.dumps([told(CliRunner().invoke(app, ["key", *command])) for command in json.loads(sys.stdin.read())]))
"""


class Commands:
    """Runs ``relay key`` on one data folder, in other processes."""

    def __init__(self, folder: Path) -> None:
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{TOP}/src",
            "HOME": str(folder),
            "RELAY_DATA_DIR": str(folder / "data"),
            "RELAY_ENV": "test",
        }

    def _python(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=TOP, input=given, capture_output=True, text=True, timeout=60
        )

    def one(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._python("-c", "from relay.cli import main; main()", "key", *arguments)

    def several(self, *commands: list[str]) -> list[dict]:
        done = self._python("-c", SEVERAL, given=json.dumps(commands))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def commands(tmp_path):
    return Commands(tmp_path)


def test_a_key_from_its_making_to_its_end(commands):
    done = commands.one("create", "--workspace", "acme", "--scope", "developer", "--quiet")
    assert done.returncode == 0, done.stderr
    key = done.stdout.removesuffix("\n")
    assert parse_api_key(key) is not None and key.startswith("relay_sk_test_")

    create = ["create", "-w", "acme", "-s", "docs", "-s", "chat", "--kind", "person", "--expires", "7", "--json"]
    new, listing = commands.several(create, ["list", "--json"])
    made, items = json.loads(new["out"]), json.loads(listing["out"])["items"]
    assert made["kind"] == "person" and made["scopes"] == ["chat", "docs"] and made["workspace"] == "acme"
    assert parse_iso(made["expires_at"]) - parse_iso(made["created_at"]) == 7 * DAY
    assert len(items) == 2 and items[0]["id"] == made["id"] and items[1]["kind"] == "agent"
    assert key.endswith(items[1]["last4"]) and items[1]["made_by"] == ["operator"]
    assert {"id", "kind", "workspace", "scopes", "prefix", "last4", "expires_at"} <= set(items[0])
    assert made["key"] not in listing["out"] and key not in listing["out"]

    rotated, again, everything, revoked, plain, nobody = commands.several(
        ["rotate", made["id"], "--overlap", "0", "--quiet"],
        ["rotate", made["id"]],
        ["list", "--json"],
        ["revoke", items[1]["id"]],
        ["list", "--workspace", "acme"],
        ["list", "-w", "nobody", "--json"],
    )
    assert rotated["status"] == 0 and parse_api_key(rotated["out"].strip()) is not None
    assert again["status"] == 1 and again["out"] == "" and len(again["err"].strip().splitlines()) == 1
    successor = next(item for item in json.loads(everything["out"])["items"] if made["id"] in item["made_by"])
    assert f"Its successor is {successor['id']}." in again["err"]
    assert revoked["status"] == 0 and items[1]["id"] in revoked["out"]
    head, *lines = (line.split("\t") for line in plain["out"].splitlines())
    rows = [dict(zip(head, line, strict=True)) for line in lines]
    assert [row["status"] for row in rows] == ["live", "expired", "revoked"]
    assert json.loads(nobody["out"]) == {"items": []}


def test_the_key_is_shown_on_standard_output_and_nowhere_in_the_data_folder(commands, tmp_path):
    name = "[bold]x[/bold]"
    shown, listed = commands.several(["create", "-w", "default", "-s", "docs", "--name", name], ["list"])
    key = next(line.split()[1] for line in shown["out"].splitlines() if line.startswith("key:"))
    assert parse_api_key(key) is not None and key not in shown["err"] and key not in listed["out"]
    assert name in shown["out"] and name in listed["out"]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not [file.name for file in files if key.encode() in file.read_bytes()]


def test_an_unknown_key_is_a_no_in_one_line(commands):
    _, *answers = commands.several(
        ["create", "-w", "default", "-s", "docs"], ["revoke", "key_" + "0" * 32], ["rotate", "nonsense"]
    )
    for told in answers:
        assert told == {"status": 1, "out": "", "err": "There is no such key.\n"}


def test_a_database_that_does_not_answer_is_named_and_missing_keys_are_told_first(commands):
    with socket.socket() as closed:  # bound and not listening: nobody else answers there
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        commands.environment["DATABASE_URL"] = f"postgresql://ada:hidden@127.0.0.1:{port}/relay"
        (lacking,) = commands.several(["list"])
        commands.environment |= {"SECRET_KEY": generate_secret_key(), "OAUTH_ENCRYPTION_KEY": generate_kek()}
        (silent,) = commands.several(["list"])
    assert lacking["status"] == 1 and "SECRET_KEY: must" in lacking["err"] and "ENCRYPTION_KEY: must" in lacking["err"]
    assert silent["status"] == 1 and silent["out"] == ""
    assert silent["err"] == f"the database cannot be used: 127.0.0.1 port {port} gives no connection\n"


@pytest.mark.parametrize("command", [["revoke"], ["rotate"], ["allow", "--any"]])
def test_a_key_given_for_its_id_is_refused_and_not_repeated(command, tmp_path, monkeypatch):
    monkeypatch.setenv("RELAY_DATA_DIR", str(tmp_path / "data"))
    done = CliRunner().invoke(app, [*command, "relay_sk_live_" + "a1B2" * 12])
    assert done.exit_code == 2 and "relay key list" in done.output
    assert "a1B2" not in done.output and not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "-w", "default"],
        ["create", "-s", "docs"],
        ["create", "-w", "default", "-s", "root"],
        ["create", "-w", "Default", "-s", "docs"],
        ["create", "-w", "../x", "-s", "docs"],
        ["create", "-w", "default", "-s", "docs", "--expires", "0"],
        ["create", "-w", "default", "-s", "docs", "--expires", "366"],
        ["create", "-w", "default", "-s", "docs", "--expires", "soon"],
        ["create", "-w", "default", "-s", "docs", "--kind", "service"],
        ["create", "-w", "default", "-s", "docs", "--name", "a\nb"],
        ["create", "-w", "default", "-s", "docs", "--quiet", "--json"],
        ["rotate", "key_1", "--quiet", "--json"],
        ["rotate", "key_1", "--overlap", "721"],
        ["rotate"],
        ["revoke"],
        ["list", "-w", "A B"],
        ["destroy"],
    ],
)
def test_wrong_usage_ends_with_2_before_anything_is_opened(arguments, tmp_path, monkeypatch):
    monkeypatch.setenv("RELAY_DATA_DIR", str(tmp_path / "data"))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "data").exists()
