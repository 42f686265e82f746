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

Four lines for another terminal in this folder: make an agent key, plan, execute, read the audit trail.
"""

_JSON: Final = "curl -sS -H @agent.key -H 'Content-Type: application/json'"
_PROMPT: Final = r'{"prompt":"Send an email to you@example.com about \"First mail\" saying \"Hello from Relay\""}'
# The key goes from a pipe into a file that curl reads its header from: it stands in no process list.
_FIRST_STEPS: Final = (
    "umask 077; RELAY key create --workspace default --scope actions:preview --scope actions:execute --quiet"
    " | sed 's/^/Authorization: Bearer /' > agent.key",
    f"{_JSON} -d '{_PROMPT}' URL/ai/plan | tee plan.json; echo",
    rf"""{_JSON} -d "{{\"plan_id\":\"$(sed 's/.*"plan_id":"\([^"]*\)".*/\1/' plan.json)\"}}" URL/ai/execute; echo""",
    "RELAY audit list",
)


def welcome(settings: Settings, first_key: str | None, host: str, port: int) -> None:
    """Print where the server listens and, when there is one, the first key with what to do next."""
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if first_key is not None:
        sys.stdout.write(_FIRST_KEY.format(key=first_key))
        command = _command(settings)
        for line in _FIRST_STEPS:
            sys.stdout.write(f"\n    {line.replace('RELAY', command).replace('URL', url)}\n")
        sys.stdout.write("\n")
    sys.stdout.write(f"relay listens on {url} (data in {settings.data_dir}); Ctrl-C stops it\n")
    sys.stdout.flush()


def _command(settings: Settings) -> str:
    """Return how to call this command on the same data from the folder that the server was started in."""
    called = Path(sys.argv[0])
    near = os.path.relpath(called)
    command = "relay" if called.name != "relay" else min(near, str(called), key=len)
    default = FIELDS["RELAY_DATA_DIR"].get_default(call_default_factory=True)
    if settings.data_dir == default:
        return command
    return f"RELAY_DATA_DIR={shlex.quote(str(settings.data_dir))} {command}"
