"""``relay policy`` as an operator runs it: files without an installation, a workspace's policies beside a server."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from relay.core.clock import DAY, now
from relay.house import open_house
from relay.identity.operator import operator
from relay.policy.default import DEFAULT_TEXT
from relay.policy.recorded import Recorded
from relay.settings import load_settings
from relay.store.query import Query
from relay.store.tables import attempts
from relay.store.target import Target
from tests.audit_kit import own
from tests.gateway import environment, settings_for
from tests.integration.test_policy_counters import row
from tests.keyring import REQUEST
from tests.policy_kit import inputs, step, who
from tests.policy_world import ALL, NONE, READS

TOP = Path(__file__).parents[2]
BROKEN = f'{ALL}\n  permit (principal, action == Relay::Action::"no.such", resource);'
FEW = '@id("few") permit (principal, action, resource) when { context.counters.actions_today < 3 };'
CASES = """
policies = "policies.cedar"

[[case]]
name = "agents echo"
action = "relay.echo"
params = { message = "hello" }
expect = "allow"

[[case]]
name = "strangers get mail from agents with approval only"
action = "email.send"
params = { to = ["zoe@elsewhere.example"], subject = "s", text = "b" }
principal = { kind = "agent", scopes = ["actions:execute"] }
expect = "require_approval"
approvers = 1
other_person = false

[[case]]
name = "once somebody agreed they do"
action = "email.send"
params = { to = ["zoe@elsewhere.example"], subject = "s", text = "b" }
context = { approvals = 1, at = 2030-01-02T03:04:05Z, client = "203.0.113.9" }
expect = "allow"
"""

# Starting the command costs a second; this runs one after another in one process that is not the test's.
SEVERAL = """
import json, sys
from typer.testing import CliRunner
from relay.cli.main import app

def told(done):
    return {"status": done.exit_code, "out": done.stdout, "err": done.stderr}

commands = json.loads(sys.stdin.read())
print(json.dumps([told(CliRunner().invoke(app, ["policy", *c["args"]], input=c["given"])) for c in commands]))
"""


class Commands:
    """Runs ``relay policy`` in other processes, in a folder of its own."""

    def __init__(self, folder: Path, **more: str) -> None:
        self.folder = folder
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{TOP}/src",
            "HOME": str(folder),
            "RELAY_DATA_DIR": str(folder / "data"),
            "RELAY_ENV": "test",
            **more,
        }

    def several(self, *commands: tuple[str, ...], given: str = "") -> list[dict[str, Any]]:
        asked = json.dumps([{"args": command, "given": given} for command in commands])
        done = subprocess.run(
            [sys.executable, "-c", SEVERAL],
            env=self.environment,
            cwd=self.folder,
            input=asked,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def one(self, *arguments: str, given: str = "") -> dict[str, Any]:
        return self.several(arguments, given=given)[0]

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)


@pytest.fixture
def relay(tmp_path: Path) -> Commands:
    found = Commands(tmp_path)
    found.write("all.cedar", ALL)
    found.write("none.cedar", NONE)
    found.write("broken.cedar", BROKEN)
    found.write("policies.cedar", DEFAULT_TEXT)
    found.write("cases.toml", CASES)
    return found


def test_check_needs_no_installation(relay: Commands) -> None:
    good, wide, bad, told, missing = relay.several(
        ("check", "none.cedar"),
        ("check", "all.cedar", "--json"),
        ("check", "broken.cedar"),
        ("check", "broken.cedar", "--json"),
        ("check", "no-such.cedar"),
    )
    assert (good["status"], good["out"]) == (0, "ok: none.cedar\n")
    assert wide["status"] == 0 and json.loads(wide["out"])["warnings"]
    column = BROKEN.splitlines()[1].index("Relay::") + 1
    assert bad["status"] == 1 and f"broken.cedar:2:{column}: " in bad["err"] and "no.such" in bad["err"]
    problems = json.loads(told["out"])["problems"]
    assert told["status"] == 1 and {"line", "column", "reason"} == set(problems[0])
    assert missing["status"] == 1 and "no-such.cedar" in missing["err"]
    assert not (relay.folder / "data").exists()


def test_check_reads_standard_input(relay: Commands) -> None:
    assert relay.one("check", "-", given=BROKEN)["err"].startswith("-:2:")
    assert relay.one("check", "-", given=NONE)["status"] == 0


def test_the_operator_s_baseline_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "base.cedar").write_text(ALL)
    (tmp_path / "none.cedar").write_text(NONE)
    done = Commands(tmp_path, POLICY_BASELINE_FILE=str(tmp_path / "base.cedar")).one("check", "none.cedar")
    assert done["status"] == 1 and "POLICY_BASELINE_FILE: line 1" in done["err"]


def test_cases(relay: Commands) -> None:
    passed, told, failed = relay.several(
        ("test", "cases.toml"),
        ("test", "cases.toml", "--json"),
        ("test", "cases.toml", "--policies", "none.cedar"),
    )
    assert (passed["status"], passed["out"]) == (0, "3 of 3 cases passed\n")
    found = json.loads(told["out"])
    assert (found["ok"], found["cases"], found["failed"]) == (True, 3, 0)
    assert [item["decision"]["decision"] for item in found["items"]] == ["allow", "require_approval", "allow"]
    assert failed["status"] == 1 and "0 of 3 cases passed" in failed["out"]
    assert 'FAILED agents echo: expected allow, got deny: Forbidden by "none".' in failed["out"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ('expect = "allow"\n', 'expect = "perhaps"\n'),
        ('action = "relay.echo"', 'acton = "relay.echo"'),
        ('scopes = ["actions:execute"]', 'scopes = ["everything"]'),
        ("at = 2030-01-02T03:04:05Z", "at = 2030-01-02T03:04:05"),
        ("[[case]]", "[case]"),
        ("approvers = 1", "approvers = 1\napprovers = 1"),
    ],
)
def test_a_file_of_cases_that_is_none(relay: Commands, changed: str, said: str) -> None:
    relay.write("cases.toml", CASES.replace(changed, said))
    done = relay.one("test", "cases.toml")
    assert done["status"] == 1 and done["err"].startswith("cases.toml: ") and not done["out"]


def test_a_case_that_asks_for_what_there_is_not_fails(relay: Commands) -> None:
    relay.write("cases.toml", CASES.replace("relay.echo", "relay.eko").replace('subject = "s", ', ""))
    done = relay.one("test", "cases.toml")
    assert done["status"] == 1
    assert "FAILED agents echo: /action: " in done["out"] and "/params/subject" in done["out"]
    relay.write("cases.toml", CASES.replace("approvers = 1", "approvers = 2"))
    assert "expected 2 approvers, got 1" in relay.one("test", "cases.toml")["out"]
    relay.write("cases.toml", CASES.replace("other_person = false", "other_person = true"))
    assert "expected other_person True" in relay.one("test", "cases.toml")["out"]


def test_wrong_usage(relay: Commands) -> None:
    relay.write("bare.toml", CASES.replace('policies = "policies.cedar"\n', ""))
    commands = [
        ("check", "all.cedar", "--workspace", "w"),
        ("test", "bare.toml"),
        ("test", "cases.toml", "--policies", "all.cedar", "--workspace", "w"),
        ("explain", "-"),
        ("explain", "-", "--key", "key_0", "--workspace", "w"),
        ("replay", "all.cedar"),
        ("replay", "all.cedar", "--workspace", "w", "--days", "0"),
        ("show", "--workspace", "Not A Name"),
    ]
    assert [done["status"] for done in relay.several(*commands)] == [2] * len(commands)


def test_a_workspace_that_does_not_exist(relay: Commands) -> None:
    _installed(relay)
    commands = [
        ("apply", "all.cedar", "-w", "nowhere"),
        ("show", "-w", "nowhere"),
        ("check", "-w", "nowhere"),
        ("replay", "all.cedar", "-w", "nowhere"),
        ("explain", "-", "-w", "nowhere"),
    ]
    for done in relay.several(*commands, given='{"action": "relay.echo"}'):
        assert (done["status"], done["err"], done["out"]) == (1, "there is no workspace nowhere\n", "")


def _installed(relay: Commands) -> str:
    """Make an installation with a key in workspace ``acme``; return the key's id."""
    given = {name: value for name, value in relay.environment.items() if name not in ("PATH", "PYTHONPATH", "HOME")}

    async def make() -> str:
        async with open_house(load_settings(given, relay.folder)) as house:
            record, _ = await house.api_keys.create(
                operator(), workspace="acme", kind="agent", scopes=["actions:execute"], request_id=REQUEST
            )
            return record.id

    return asyncio.run(make())


def test_apply_show_and_return(relay: Commands) -> None:
    _installed(relay)
    applied, refused, lost, kept, listed, told, shown, old, back, now_default, checked = relay.several(
        ("apply", "none.cedar", "-w", "acme", "-m", "closed"),
        ("apply", "broken.cedar", "-w", "acme"),
        ("apply", "all.cedar", "-w", "acme", "--expected-version", "0"),
        ("apply", "all.cedar", "-w", "acme", "--no-activate", "--json"),
        ("versions", "-w", "acme"),
        ("versions", "-w", "acme", "--json"),
        ("show", "-w", "acme"),
        ("show", "-w", "acme", "--version", "2", "--json"),
        ("activate", "0", "-w", "acme", "--json"),
        ("show", "-w", "acme"),
        ("check",),
    )
    assert (applied["status"], applied["out"]) == (0, "version 1 holds now\n")
    assert refused["status"] == 1 and "broken.cedar:2:" in refused["err"]
    assert lost["status"] == 1 and "somebody has changed" in lost["err"]
    assert json.loads(kept["out"])["version"] == 2 and json.loads(kept["out"])["active"] is False
    lines = listed["out"].splitlines()
    assert lines[0].startswith("  2\t") and lines[1].startswith("* 1\t") and lines[1].endswith("\toperator\tclosed")
    assert [item["version"] for item in json.loads(told["out"])["items"]] == [2, 1]
    assert shown["out"] == NONE + "\n"
    assert json.loads(old["out"])["text"] == ALL
    assert json.loads(back["out"])["version"] == 0 and now_default["out"] == DEFAULT_TEXT
    assert (checked["status"], checked["out"]) == (0, "ok: the policies of 0 workspaces check\n")


def test_explain(relay: Commands) -> None:
    key = _installed(relay)
    relay.one("apply", "none.cedar", "-w", "acme")
    echo = '{"action": "relay.echo", "params": {"message": "hi"}}'
    as_key, supposed, draft, unknown = relay.several(
        ("explain", "-", "--key", key, "--json"),
        ("explain", "-", "-w", "acme", "--kind", "person", "--scope", "chat"),
        ("explain", "-", "--key", key, "--policies", "all.cedar"),
        ("explain", "-", "--key", "key_0"),
        given=echo,
    )
    found = json.loads(as_key["out"])
    assert (found["decision"], found["policies"], found["policy_version"]) == ("deny", ["none"], 1)
    assert supposed["out"] == "deny by workspace@1\nThis needs the scope actions:execute.\n"
    assert draft["out"] == 'allow by draft@0\nAllowed by "all".\n'
    assert unknown["status"] == 1
    wrong = relay.one("explain", "-", "--key", key, given='{"action": "relay.echo", "principal": {}}')
    assert wrong["status"] == 1 and "/principal" in wrong["err"]
    wrong = relay.one("explain", "-", "--key", key, given='{"action": "relay.echo", "params": {}}')
    assert wrong["status"] == 1 and wrong["err"]


def test_cases_say_where_parameters_came_from(relay: Commands) -> None:
    relay.write("said.cedar", "permit (principal, action, resource) when { context has origins.user };")
    case = '[[case]]\nname = "{}"\naction = "relay.echo"\nparams = {{ message = "m" }}\ncontext = {}\nexpect = "{}"\n'
    cases = [case.format("a", "{}", "deny"), case.format("b", '{ origins = { user = ["message"] } }', "allow")]
    relay.write("said.toml", 'policies = "said.cedar"\n' + "".join(cases))
    relay.write("odd.toml", case.format("odd", '{ origins = { others = ["message"] } }', "deny"))
    passed, odd = relay.several(("test", "said.toml"), ("test", "odd.toml", "--policies", "said.cedar"))
    assert (passed["status"], passed["out"]) == (0, "2 of 2 cases passed\n"), passed
    assert odd["status"] == 1 and "/case/0/context/origins/others: " in odd["err"]


def test_cases_say_what_was_counted(relay: Commands) -> None:
    relay.write("few.cedar", FEW)
    case = '[[case]]\nname = "{}"\naction = "relay.echo"\nparams = {{ message = "m" }}\ncontext = {}\nexpect = "{}"\n'
    cases = [
        case.format("none", "{}", "allow"),
        case.format("two", "{ counters = { actions_today = 2, actions_last_hour = 9 } }", "allow"),
        case.format("three", "{ counters = { actions_today = 3 } }", "deny"),
    ]
    relay.write("few.toml", 'policies = "few.cedar"\n' + "".join(cases))
    relay.write("odd.toml", case.format("odd", "{ counters = { actions = 3 } }", "deny"))
    passed, odd = relay.several(("test", "few.toml"), ("test", "odd.toml", "--policies", "few.cedar"))
    assert (passed["status"], passed["out"]) == (0, "3 of 3 cases passed\n"), passed
    assert odd["status"] == 1 and "/case/0/context/counters/actions: " in odd["err"]


async def _attempts(relay: Commands, key_id: str, count: int) -> None:
    given = {name: value for name, value in relay.environment.items() if name not in ("PATH", "PYTHONPATH", "HOME")}
    rows = [row(number, now(), workspace_id="acme", principal_id=key_id) for number in range(count)]
    async with open_house(load_settings(given, relay.folder)) as house:
        await house.database.writer.run(lambda tx: tx.many(Query(insert(attempts)), rows))


def test_explain_reads_the_real_counters(relay: Commands) -> None:
    key = _installed(relay)
    asyncio.run(_attempts(relay, key, 3))
    relay.write("few.cedar", FEW)
    echo = {"action": "relay.echo", "params": {"message": "hi"}}
    command = ("explain", "-", "--key", key, "--policies", "few.cedar")
    supposed = ("explain", "-", "-w", "acme", "--policies", "few.cedar")
    as_key, nobody = relay.several(command, supposed, given=json.dumps(echo))
    assert as_key["out"].startswith("deny by draft@0\n") and nobody["out"].startswith("allow by draft@0\n")
    made_up = relay.one(*command, given=json.dumps({**echo, "context": {"counters": {"actions_today": 0}}}))
    assert made_up["status"] == 1 and "/context/counters" in made_up["err"]
    earlier = relay.one(*command, given=json.dumps({**echo, "context": {"at": "2020-01-02T03:04:05Z"}}))
    assert earlier["out"].startswith("allow by draft@0\n")


async def _decisions(target: Target, data_dir: Path, count: int) -> None:
    async with open_house(settings_for(target, data_dir)) as house:
        await house.api_keys.create(
            operator(), workspace="acme", kind="agent", scopes=["actions:execute"], request_id=REQUEST
        )
        agent, what = who(workspace_id="acme"), step("relay.echo", message="hello")
        recorded = Recorded(house.vault, 30 * DAY)
        from relay.core.action import Decision

        for _ in range(count):
            decision = Decision(
                "allow", "builtin:default", 0, 'Allowed by "reads".', inputs=inputs(agent, what, counters=None).encode()
            )
            prepared = recorded.prepare(agent, what[0], decision, "execute", now())
            assert prepared is not None
            await house.database.writer.run(prepared.put)


async def test_replay(target: Target, relay: Commands) -> None:
    data = relay.folder / "data"
    await _decisions(target, data, 3)
    relay.environment |= environment(target, data)
    commands = [
        ("replay", "none.cedar", "-w", "acme"),
        ("replay", "none.cedar", "-w", "acme", "--json"),
        ("replay", "none.cedar", "-w", "acme", "--fail-on-flip"),
        ("replay", "policies.cedar", "-w", "acme", "--fail-on-flip", "--json"),
        ("replay", "broken.cedar", "-w", "acme"),
        ("replay", "few.cedar", "-w", "acme", "--fail-on-flip"),
    ]
    relay.write("few.cedar", FEW)
    text, told, failed, same, refused, few = await asyncio.to_thread(relay.several, *commands)
    assert text["status"] == 0
    assert text["out"].count("allow -> deny") == 3 and 'now: Forbidden by "none".' in text["out"]
    assert text["out"].endswith("3 from allow to deny\n3 of 3 decisions would flip\n")
    found = json.loads(told["out"])
    assert (found["replayed"], found["flips"], len(found["items"])) == (3, 3, 3)
    assert {item["to"]["policies"][0] for item in found["items"]} == {"none"}
    assert (few["status"], few["out"]) == (0, "0 of 0 decisions would flip, 3 not judged: decided without counters\n")
    assert failed["status"] == 1
    assert same["status"] == 0 and json.loads(same["out"])["items"] == []
    assert refused["status"] == 1 and "broken.cedar:2:" in refused["err"]


async def test_an_operator_is_bound_to_replays_too(target: Target, relay: Commands) -> None:
    data = relay.folder / "data"
    await _decisions(target, data, 1)
    relay.environment |= environment(target, data, POLICY_REPLAY_REQUIRED="true")
    refused, replayed, applied = await asyncio.to_thread(
        relay.several,
        ("apply", "none.cedar", "-w", "acme"),
        ("replay", "none.cedar", "-w", "acme"),
        ("apply", "none.cedar", "-w", "acme"),
    )
    assert refused["status"] == 1 and "relay policy replay" in refused["err"]
    assert replayed["status"] == 0 and applied["out"] == "version 1 holds now\n"


async def test_check_finds_what_no_longer_checks(target: Target, relay: Commands) -> None:
    data = relay.folder / "data"
    await _decisions(target, data, 0)
    relay.environment |= environment(target, data)
    await asyncio.to_thread(relay.one, "apply", "none.cedar", "-w", "acme")
    own(target, ("UPDATE policy_versions SET text = ?", (READS,)))
    every, one, told, tested = await asyncio.to_thread(
        relay.several,
        ("check",),
        ("check", "-w", "acme"),
        ("check", "--json"),
        ("test", "cases.toml", "-w", "acme"),
    )
    for done in (every, one):
        assert done["status"] == 1 and done["err"].startswith("acme@1:1:1: the stored text")
        assert done["out"] == "1 of 1 workspaces may do nothing until this is put right\n"
    [item] = json.loads(told["out"])["items"]
    assert told["status"] == 1 and item["workspace"] == "acme" and item["problems"]
    assert tested["status"] == 1 and "Nothing is allowed" in tested["err"]
