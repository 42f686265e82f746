"""The receivers' code in the documentation verifies what Relay really sends, and nothing else."""

import asyncio
import hmac
import json
import re
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay.crypto.webhooks import decode_secret, new_secret
from relay.store.target import Target, parse_target
from tests import verifying_kit as kit
from tests.docs_reading import TOP, fences
from tests.gateway import open_gateway
from tests.verifying_kit import PAGE, Case, Sent, wrong

Debian = Callable[[str, str], None]


def _code(language: str) -> list[str]:
    return [fence.text for fence in fences(PAGE) if fence.language == language]


PYTHON_LIBRARY, PYTHON, PYTHON_LEGACY, TAKE = _code("python")
NODE_LIBRARY, NODE = _code("javascript")
SHELL_HMAC, SHELL_VERIFY, SHELL_SIGN = _code("shell")
(GO,), (RUBY,), (PHP,) = _code("go"), _code("ruby"), _code("php")

# The Debian package with its command, what runs it, the code.
LANGUAGES: dict[str, tuple[str, str, Callable[[str, Path, list[Case]], list[bool]], str]] = {
    "Python": ("", "", kit.python, PYTHON),
    "Node": ("nodejs", "node", kit.node, NODE),
    "Go": ("golang-go", "go", kit.go, GO),
    "Ruby": ("ruby", "ruby", kit.ruby, RUBY),
    "PHP": ("php-cli", "php", kit.php, PHP),
    "Shell": ("openssl", "openssl", kit.shell, SHELL_HMAC + SHELL_VERIFY),
}


@pytest.fixture(scope="module")
def sent(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Sent:
    """Deliveries of a real gateway, young enough for every test of this file."""
    folder = tmp_path_factory.mktemp("sent")
    target: Target = parse_target(None, folder)
    assert target.path is not None
    shutil.copyfile(sqlite_template, target.path)
    target.path.chmod(0o600)
    return asyncio.run(kit.send(target, folder))


@pytest.fixture(scope="module")
def npm_modules(debian: Debian) -> Path:
    """The packages of ``requirements/npm``, which lie in the environment that runs the tests."""
    debian("nodejs", "node")
    debian("npm", "npm")
    folder = Path(sys.prefix) / "npm"
    assert (folder / "node_modules").is_dir(), f"run: scripts/npm-packages {folder} (make test does)"
    return folder / "node_modules"


def test_every_example_of_the_page_is_tested() -> None:
    tested = [PYTHON_LIBRARY, PYTHON, PYTHON_LEGACY, TAKE, NODE_LIBRARY, NODE]
    tested += [SHELL_HMAC, SHELL_VERIFY, SHELL_SIGN, GO, RUBY, PHP]
    assert sorted(tested) == sorted(fence.text for fence in fences(PAGE))


def test_the_deliveries_are_what_the_cases_take_them_for(sent: Sent) -> None:
    one, two = sent.before.headers["webhook-signature"], sent.during.headers["webhook-signature"]
    assert (len(one.split(" ")), len(two.split(" "))) == (1, 2)
    assert sent.old != sent.new and sent.before.id != sent.during.id and "x-webhook-signature" in sent.before.headers


@pytest.mark.parametrize("language", LANGUAGES)
def test_code_without_a_library(language: str, sent: Sent, tmp_path: Path, debian: Debian) -> None:
    package, command, receiver, code = LANGUAGES[language]
    if package:
        debian(package, command)
    cases = [*kit.genuine(sent), *kit.forged(sent), *kit.garbage(sent)]
    cases += [*kit.allowed(sent), *kit.raw(sent), *kit.weak_secrets(sent)]
    if language == "Shell":  # its headers are lines of a file, which hold no NUL and end where blanks begin
        cases = [case for case in cases if "\x00" not in "".join(case.headers.values())]
        cases = [case for case in cases if not case.headers.get("webhook-timestamp", "").startswith(" ")]
    assert wrong(cases, receiver(code, tmp_path, cases)) == []


def test_python_headers_that_cannot_be_encoded(sent: Sent, tmp_path: Path) -> None:
    base = kit.genuine(sent)[0].but("", valid=False)
    cases = [base.having(name, "v1,\udcff") for name in kit.SIGNED]
    for code in (PYTHON, PYTHON_LIBRARY):
        assert wrong(cases, kit.python(code, tmp_path, cases)) == []


def test_the_library_for_python(sent: Sent, tmp_path: Path) -> None:
    cases = _lenient([*kit.genuine(sent), *kit.forged(sent), *kit.garbage(sent), *kit.allowed(sent)])
    assert wrong(cases, kit.python(PYTHON_LIBRARY, tmp_path, cases)) == []


@pytest.mark.parametrize("library", ["standardwebhooks", "svix"])
def test_the_libraries_for_node(library: str, sent: Sent, tmp_path: Path, npm_modules: Path) -> None:
    code = NODE_LIBRARY.replace('"standardwebhooks"', f'"{library}"')
    assert library in code
    cases = _lenient([*kit.genuine(sent), *kit.forged(sent), *kit.garbage(sent), *kit.allowed(sent)])
    assert wrong(cases, kit.node(code, tmp_path, cases, npm_modules)) == []


def _lenient(cases: list[Case]) -> list[Case]:
    """Leave out other spellings of the very same number and signature: the libraries read them as what they mean."""
    names = re.compile(r"webhook-timestamp '(0\d{10}|\+\d+| \d+|\d+\.0)'|webhook-signature 'v1,[\w+/]{43}=A'")
    left = [case for case in cases if not names.fullmatch(case.name)]
    assert len(cases) - len(left) == 5
    return left


def test_the_legacy_signature(sent: Sent, tmp_path: Path) -> None:
    base, new, old = kit.genuine(sent)
    name, right = "x-webhook-signature", base.headers["x-webhook-signature"]
    others = ["", "é", "\udcff", right.upper(), right[:-1], right + "0", base.headers["webhook-signature"]]
    bad = base.but("", valid=False)
    cases = [
        base,
        new,
        old.but("the old secret in a rotation", valid=False),
        bad.but("another body", body=sent.during.body),
        bad.but("a byte of the body", body=bytes([base.body[0] ^ 1]) + base.body[1:]),
        bad.without(name),
        *(bad.having(name, one) for one in others),
        bad.having(name, hmac.digest(b"", base.body, "sha256").hex()).but("no secret", secret=""),
    ]
    assert wrong(cases, kit.python(PYTHON_LEGACY, tmp_path, cases, "verify_legacy")) == []


async def test_what_shell_and_curl_send_is_taken(sqlite_target: Target, tmp_path: Path, debian: Debian) -> None:
    debian("openssl", "openssl")
    debian("curl", "curl")
    event = {"type": "order.paid", "data": {"note": "é\n"}}
    (tmp_path / "event.json").write_text(json.dumps(event, indent=1, ensure_ascii=False))
    (tmp_path / "send.sh").write_text(SHELL_HMAC + SHELL_SIGN)
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        wanted = {"name": "from a shell", "scheme": "standard"}
        made = (await gateway.post("/webhooks/receivers", wanted, key=gateway.admin)).expect(201)
        said = []
        for secret in (made["secret"] + "\n", made["secret"], new_secret()):  # a line feed at the end or not
            (tmp_path / "receiver.secret").write_text(secret)
            url = gateway.url + made["path"]
            came = await asyncio.to_thread(kit.run, ["sh", "-eu", "send.sh"], tmp_path, "", url=url)
            said.append(json.loads(came))
    *taken, refused = said
    assert [(one["received"], one["duplicate"], one["unsigned"]) for one in taken] == [(True, False, False)] * 2
    assert refused["status"] == 401


def test_the_key_never_stands_in_arguments(sent: Sent, tmp_path: Path, debian: Debian) -> None:
    debian("openssl", "openssl")
    seen = tmp_path / "seen"
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("openssl", "awk", "od", "tr", "cat", "date"):
        real = shutil.which(name)
        tool = tools / name
        tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$0 $*" >> {seen}\nexec {real} "$@"\n')
        tool.chmod(0o755)
    code = f"PATH={tools}:$PATH\n{SHELL_HMAC}{SHELL_VERIFY}"
    assert kit.shell(code, tmp_path, kit.genuine(sent)) == [True] * 3
    arguments = seen.read_text()
    assert "openssl dgst" in arguments and "openssl base64" in arguments
    for secret in (sent.old, sent.new):
        key = decode_secret(secret)
        assert not any(text in arguments for text in (secret, secret[6:], key.hex(), key.hex().upper()))


def test_a_message_is_taken_once(sent: Sent, tmp_path: Path) -> None:
    example: dict[str, Any] = {}
    exec(compile(TAKE, PAGE, "exec", dont_inherit=True), example)
    database = sqlite3.connect(tmp_path / "taken.sqlite3")
    database.execute("CREATE TABLE taken (id TEXT PRIMARY KEY, at INTEGER)")
    done: list[Any] = []

    def fails(*_: Any) -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        example["take"](database, sent.before.id, sent.before.body, fails)
    for taken in (True, False, False):
        work = lambda _, event: done.append(event)  # noqa: E731
        assert example["take"](database, sent.before.id, sent.before.body, work) is taken
    assert done == [sent.before.event]
    assert example["take"](database, sent.during.id, sent.during.body, lambda *_: None) is True
    database.close()


def test_npm_packages_are_locked_by_hash_and_to_no_place() -> None:
    lock = json.loads((TOP / "requirements/npm/package-lock.json").read_text())["packages"]
    wanted = json.loads((TOP / "requirements/npm/package.json").read_text())["dependencies"]
    assert set(wanted) == {"standardwebhooks", "svix"} and lock[""]["dependencies"] == wanted
    for name, package in lock.items():
        if name:
            assert package["integrity"].startswith("sha512-") and "resolved" not in package, name
    for name, version in wanted.items():
        assert lock[f"node_modules/{name}"]["version"] == version
