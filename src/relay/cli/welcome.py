"""What a server says when it is ready: where it listens and, once in a database's life, the first key."""

import os
import shlex
import sys
from pathlib import Path
from typing import Final

from relay.settings import Settings
from relay.settings.model import FIELDS

_FIRST_KEY: Final = """
This is the first key of this installation: workspace default, kind person, every scope.
It is shown this once and stored nowhere in readable form; keep it in a password manager.

    {key}

Paste this into another terminal in this folder. An agent plans a mail and has it executed; the run waits until a
person has looked at exactly what would be sent and agrees; then it is sent, once, and the record tells all of it.

"""

_HEADER: Final = "--quiet | sed 's/^/Authorization: Bearer /'"
_CALL: Final = """-H 'Content-Type: application/json' "URL/$@"; }"""
_PROMPT: Final = r'{"prompt":"Send an email to you@example.com about \"First mail\" saying \"Hello from Relay\""}'
# The keys go from a pipe into files that curl reads its headers from: they stand in no process list.
_FIRST_STEPS: Final = (
    "umask 077; RELAY key create --workspace default --scope actions:preview --scope actions:execute"
    f" {_HEADER} > agent.key",
    f"RELAY key create --workspace default --kind person --scope approver {_HEADER} > person.key",
    f"agent() {{ curl -sS -H @agent.key {_CALL}",
    f"person() {{ curl -sS -H @person.key {_CALL}",
    r"""field() { sed "s/.*\"$1\":\"\([^\"]*\)\".*/\1/" "$2"; }""",
    f"agent ai/plan -d '{_PROMPT}' | tee plan.json; echo",
    r"""agent ai/execute -d "{\"plan_id\":\"$(field plan_id plan.json)\"}" | tee run.json; echo""",
    'until person "approvals?status=pending" | tee waiting.json | grep "$(field run_id run.json)"; do sleep 1; done',
    'person "approvals/$(field approval_id waiting.json)/approve"'
    r""" -d "{\"digest\":\"$(field digest waiting.json)\"}"; echo""",
    'agent "ai/jobs/$(field run_id run.json)/events"',
    "RELAY audit list",
)


def welcome(settings: Settings, first_key: str | None, host: str, port: int) -> None:
    """Print where the server listens and, when there is one, the first key with what to do next."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if first_key is not None:
        sys.stdout.write(_FIRST_KEY.format(key=first_key))
        command = _command(settings)
        for line in _FIRST_STEPS:
            sys.stdout.write(f"    {line.replace('RELAY', command).replace('URL', url)}\n")
        sys.stdout.write("\n")
    sys.stdout.write(f"relay listens on {url} (data in {settings.data_dir}); Ctrl-C stops it\n")
    sys.stdout.flush()


def _command(settings: Settings) -> str:
    """Return how to call this command on the same data from the folder that the server was started in."""
    called = Path(sys.argv[0])
    near = os.path.relpath(called)
    command = "relay" if called.name != "relay" else min(near, str(called), key=len)
    # A .env in this folder is read by commands that are told the same.
    told = "RELAY_ENV=local " if settings.env == "local" else ""
    default = FIELDS["RELAY_DATA_DIR"].get_default(call_default_factory=True)
    if settings.data_dir != default:
        told += f"RELAY_DATA_DIR={shlex.quote(str(settings.data_dir))} "
    return told + command
