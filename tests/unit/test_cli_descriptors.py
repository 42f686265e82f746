"""A process makes room for its connections, as far as the system lets it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
# In a process of its own: what a limit has come down to does not go up again.
ASK = """
import resource, sys
from relay.cli.descriptors import make_room
soft, hard, connections = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
said = make_room(connections)
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], "warned" if said and "LimitNOFILE" in said else said)
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "expected"),
    [(512, 1024, 100, "512 None"), (300, 1024, 500, "756 None"), (300, 512, 500, "512 warned")],
)
def test_room_is_made(soft: int, hard: int, connections: int, expected: str) -> None:
    command = [sys.executable, "-c", ASK, str(soft), str(hard), str(connections)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCES)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert ended.stdout.strip() == expected, ended.stderr
