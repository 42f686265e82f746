"""The rules of ``make check`` bite: each planted violation is refused. Run by ``make check`` itself."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
PYPROJECT = TOP / "pyproject.toml"


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": "src", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def ruff(path: str, text: str) -> str:
    command = ["ruff", "check", "--no-cache", "--output-format=concise", "--config", str(PYPROJECT)]
    result = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:], "--stdin-filename", str(TOP / path), "-"],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    return result.stdout


BANNED_NAMES = [
    ("import os\nx = os.environ\n", "src/relay/settings/sources.py"),
    ("from os import environ\nx = environ\n", "src/relay/settings/sources.py"),
    ("import os as o\nx = o.getenv('A')\n", "src/relay/settings/sources.py"),
    ("import asyncio\nx = asyncio.open_connection\n", "src/relay/egress/smtp.py"),
    ("import urllib.request\nx = urllib.request.urlopen\n", "src/relay/egress/http.py"),
    ("import http.client\nx = http.client\n", "src/relay/egress/http.py"),
    ("from fastapi import APIRouter\nx = APIRouter()\n", "src/relay/surface/declare.py"),
    ("from fastapi.routing import APIRoute\nx = APIRoute\n", "src/relay/surface/declare.py"),
    ("import fastapi\nx = fastapi.APIRouter()\n", "src/relay/surface/declare.py"),
    ("from starlette.routing import Mount\nx = Mount\n", "src/relay/surface/declare.py"),
    ("from fastapi.staticfiles import StaticFiles\nx = StaticFiles\n", "src/relay/surface/declare.py"),
    ("from relay.core.permit import mint_permit\nx = mint_permit\n", "src/relay/gate/execute.py"),
    ("from relay.core.admission import grant_admission\nx = grant_admission\n", "src/relay/gate/admit.py"),
    ("from relay.core import permit\nx = permit.mint_permit\n", "src/relay/gate/execute.py"),
    ("from starlette.middleware.base import BaseHTTPMiddleware\nx = BaseHTTPMiddleware\n", None),
]


@pytest.mark.parametrize(("text", "home"), BANNED_NAMES)
def test_a_name_is_used_in_its_home_alone(text: str, home: str | None) -> None:
    assert "TID251" in ruff("src/relay/web/part.py", text)
    assert "TID251" in ruff("src/relay/gate/perform.py", text)
    if home:
        assert "TID251" not in ruff(home, text)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("S301", "import pickle\nx = pickle.loads(b'')\n"),
        ("S307", "x = eval('1')\n"),
        ("S102", "exec('1')\n"),
        ("S602", "import subprocess\nsubprocess.run('ls', shell=True)\n"),
        ("S603", "import subprocess\nx = ['a']\nsubprocess.run(x)\n"),
        ("S311", "import random\nx = random.random()\n"),
        ("S608", "y = 1\nx = f'SELECT a FROM b WHERE c = {y}'\n"),
        ("S506", "import yaml\nyaml.load('')\n"),
        ("S110", "try:\n    x()\nexcept Exception:\n    pass\n"),
        ("S105", "password = 'hunter22'\n"),
        ("E722", "try:\n    x()\nexcept:\n    y()\n"),
        ("PGH003", "x = 1  # type: ignore\n"),
        ("PGH004", "x = 1  # noqa\n"),
        ("ASYNC210", "import httpx\nasync def f():\n    httpx.get('u')\n"),
        ("ASYNC230", "async def f():\n    open('x')\n"),
        ("DTZ005", "import datetime\nx = datetime.datetime.now()\n"),
        ("T201", "print(1)\n"),
        ("FIX002", "# TO" + "DO: later\n"),
        ("ERA001", "# x = 1\n"),
        ("TID252", "from . import x\n"),
        ("D103", "def f() -> None:\n    x()\n"),
    ],
)
def test_ruff_refuses(rule: str, text: str) -> None:
    assert f" {rule} " in ruff("src/relay/web/part.py", text)


# What each contract is there to refuse, as (file, text, words of the report).
LAYERS = {
    "a lower layer imports an upper one": ("store/part.py", "import relay.gate\n", "relay.store.part -> relay.gate"),
    "a sibling imports a sibling": ("gate/part.py", "import relay.connectors\n", "relay.gate.part -> relay.connectors"),
    "policy imports identity": ("policy/part.py", "import relay.identity\n", "relay.policy.part -> relay.identity"),
    "queue imports audit": ("queue/part.py", "import relay.audit\n", "relay.queue.part -> relay.audit"),
    "app imports the command line": ("app/part.py", "import relay.cli\n", "relay.app.part -> relay.cli"),
    "a package has no layer": ("newcomer/__init__.py", "", "relay.newcomer"),
    "a door imports a connector": ("web/part.py", "import relay.connectors\n", "relay.web.part -> relay.connectors"),
    "hmac outside crypto": ("identity/part.py", "import hmac\n", "relay.identity.part -> hmac"),
    "hashlib outside crypto": ("core/part.py", "from hashlib import sha256\n", "relay.core.part -> hashlib"),
    "cryptography outside crypto": (
        "audit/part.py",
        "from cryptography.fernet import Fernet\n",
        "relay.audit.part -> cryptography",
    ),
    "aiohttp outside egress": ("connectors/part.py", "import aiohttp\n", "relay.connectors.part -> aiohttp"),
    "smtplib outside egress": ("connectors/part.py", "import smtplib\n", "relay.connectors.part -> smtplib"),
    "socket outside egress": ("web/part.py", "def f():\n    import socket\n", "relay.web.part -> socket"),
    "a vendor's client outside its home": ("llm/part.py", "import httpx2\n", "relay.llm.part -> httpx2"),
    "a vendor outside its home": ("chat/part.py", "import openai\n", "relay.chat.part -> openai"),
    "the client of models outside llm": (
        "chat/part.py",
        "import relay.egress.model\n",
        "relay.chat.part -> relay.egress",
    ),
    "a second HTTP client": ("egress/part.py", "import httpx\n", "relay.egress.part -> httpx"),
    "a framework in core": ("core/part.py", "from fastapi import FastAPI\n", "relay.core.part -> fastapi"),
    "a database in core": ("core/part.py", "import sqlalchemy\n", "relay.core.part -> sqlalchemy"),
}
ALLOWED = {
    "crypto/part.py": "import hashlib, hmac\nfrom cryptography.fernet import Fernet\n",
    "egress/part.py": "import aiohttp, smtplib, socket\n",
    "llm/part.py": "import relay.egress.model\n",
    "gate/part.py": "import relay.policy, relay.audit, relay.catalog, relay.core\n",
    "cli/part.py": "import relay.app\n",
    "web/part.py": "import relay.surface, relay.runs, relay.gate\n",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package with every layer and nothing in it."""
    contracts = tomllib.loads(PYPROJECT.read_text())["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    names = [name.strip(" ()") for layer in layers for name in layer.split("|")]
    assert {"app", "gate", "connectors", "core"} <= set(names)
    package = tmp_path / "src" / "relay"
    for name in names:
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "engine" / "__init__.py").write_text("import relay.connectors\n")
    (package / "egress" / "model.py").write_text("import httpx2\n")
    return package


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    return run("lint-imports", "--no-cache", "--no-logo", "--config", str(PYPROJECT), cwd=house.parent.parent)


def test_the_layers_allow_what_they_should(house: Path) -> None:
    for path, text in ALLOWED.items():
        (house / path).write_text(text)
    result = lint_imports(house)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("case", LAYERS)
def test_import_linter_refuses(house: Path, case: str) -> None:
    path, text, report = LAYERS[case]
    (house / path).parent.mkdir(exist_ok=True)
    (house / path).write_text(text)
    result = lint_imports(house)
    assert result.returncode == 1
    assert report in result.stdout
