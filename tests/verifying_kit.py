"""What a receiver is shown: deliveries that Relay really sent, what an attacker makes of them, and receivers' code.

The code is that of ``docs/webhooks-verifying.md``, run as it stands by the driver of its language in ``tests/interop``.
"""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from relay.crypto.webhooks import decode_secret, new_secret, sign_standard
from relay.store.target import Target
from tests.left_out import SYSTEM_PATH
from tests.receivers import Received, open_receiver
from tests.sending_kit import act, endpoint, sending

DRIVERS = Path(__file__).parent / "interop"
PAGE = "docs/webhooks-verifying.md"
RUN_SECONDS = 100
SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature")


@dataclass(frozen=True)
class Case:
    """A request as it reaches a receiver that has ``secret``, and whether it is one of Relay's."""

    name: str
    secret: str
    headers: Mapping[str, str]
    body: bytes
    valid: bool

    def but(self, name: str, **changes: Any) -> "Case":
        """Return it with fields changed."""
        return replace(self, name=name, **changes)

    def having(self, header: str, value: str) -> "Case":
        """Return it with another header."""
        return self.but(f"{header} {value[:60]!r}", headers={**self.headers, header: value})

    def without(self, *headers: str) -> "Case":
        """Return it with headers stripped."""
        left = {name: value for name, value in self.headers.items() if name not in headers}
        return self.but(f"without {headers}", headers=left)

    def signed(self, stamp: int, key: bytes | None = None) -> "Case":
        """Return it signed for another time, with its own key or another."""
        key = decode_secret(self.secret) if key is None else key
        signature = sign_standard(key, self.headers["webhook-id"], stamp, self.body)
        headers = {**self.headers, "webhook-timestamp": str(stamp), "webhook-signature": signature}
        return self.but(f"{self.name}, signed at {stamp}", headers=headers)


@dataclass(frozen=True)
class Sent:
    """Two deliveries to one endpoint as they arrived, one before its secret was rotated and one during the overlap."""

    before: Received
    during: Received
    old: str
    new: str


async def send(target: Target, folder: Path) -> Sent:
    """Have a gateway deliver over a socket, and return what came."""
    async with open_receiver() as receiver, sending(target, folder) as gateway:
        made = await endpoint(gateway, receiver.url, "action.succeeded", legacy_signature=True)
        await act(gateway)
        await receiver.arrived(1)
        rotated = (await gateway.post(f"/webhooks/endpoints/{made['id']}/rotate", key=gateway.admin)).expect(200)
        await act(gateway)
        before, during = await receiver.arrived(2)
    return Sent(before, during, made["secret"], rotated["secret"])


def genuine(sent: Sent) -> list[Case]:
    """Return Relay's own deliveries under every secret that was valid when they were sent."""
    return [
        Case("the only secret", sent.old, sent.before.headers, sent.before.body, True),
        Case("the new secret in a rotation", sent.new, sent.during.headers, sent.during.body, True),
        Case("the old secret in a rotation", sent.old, sent.during.headers, sent.during.body, True),
    ]


def forged(sent: Sent) -> list[Case]:
    """Return what is left when something of a delivery is changed, taken away or stale. None of it is valid."""
    base, _, during = (case.but(case.name, valid=False) for case in genuine(sent))
    body, stamp, now = base.body, int(base.headers["webhook-timestamp"]), int(time.time())
    bodies = {
        "the first byte": bytes([body[0] ^ 1]) + body[1:],
        "the last byte": body[:-1] + bytes([body[-1] ^ 1]),
        "a line feed more": body + b"\n",
        "a byte less": body[:-1],
        "none": b"",
    }
    stamps = [str(stamp + 1), str(stamp - 1), f"0{stamp}", f" {stamp}", f"+{stamp}", f"{stamp}.0"]
    return [
        *(base.but(f"the body: {name}", body=one) for name, one in bodies.items()),
        *(base.having("webhook-id", one) for one in (sent.before.id + "x", sent.during.id)),
        *(base.having("webhook-timestamp", one) for one in stamps),
        base.having("webhook-signature", sent.during.headers["webhook-signature"].split(" ")[0]),
        *(base.without(name) for name in SIGNED),
        *(base.signed(one) for one in (now - 400, now + 400, now - 86_400, 1)),
        base.but("another secret", secret=new_secret()),
        base.but("a later secret", secret=sent.new),
        during.but("another secret in a rotation", secret=new_secret()),
        base.without(*SIGNED).but("only the legacy signature"),
        base.having("webhook-signature", _recoded(base.headers["x-webhook-signature"])),
    ]


def garbage(sent: Sent) -> list[Case]:
    """Return headers that nothing can be made of. None is valid, and none may raise."""
    base = genuine(sent)[0].but("", valid=False)
    right = base.headers["webhook-signature"].removeprefix("v1,")
    signatures = [
        *("", " ", ",", "*", "v1", "v1,", "v1,,", "v1,!!!!", "v1,A", "v1,====", "v1,ééé", "v1,\u0663", "\x00", "'; --"),
        *(right, f"v1={right}", f"V1,{right}", f"v2,{right}", f"v1a,{right}", f"v1,{right}A", f"v1,{right[:-2]}"),
        *(f"v1,{right[::-1]}", "v1,AAAA " * 20),
    ]
    stamps = [
        *("", " ", "x", "-1", "099", "1 2", "1e9", "0x7fffffff", "NaN", "Infinity", "é", "\x00", "\u0661\u0662"),
        *("9" * 18, "9" * 5000, "9223372036854775807", "18446744073709551615"),
    ]
    return [
        *(base.having("webhook-signature", one) for one in signatures),
        *(base.having("webhook-timestamp", one) for one in stamps),
        *(base.having("webhook-id", one) for one in ("", "é", "\x00", "%s", "a.b")),
        *(base.but(f"the body {one!r}", body=one) for one in (b"\x00", b"\xff\xfe", b"not JSON")),
        base.but("no headers", headers={}, body=b""),
    ]


def allowed(sent: Sent) -> list[Case]:
    """Return what is valid though it does not look like today's deliveries: signed by Relay's own code."""
    base, now = genuine(sent)[0], int(time.time())
    right = base.headers["webhook-signature"]
    return [
        *(base.signed(now - age) for age in (200, -200)),
        base.having("webhook-signature", f"v1a,AAAA {right}"),
        base.having("webhook-signature", f"v1,AAAA v1,BBBB {right}"),
    ]


def raw(sent: Sent) -> list[Case]:
    """Return what code that works on bytes takes too, and the libraries, which read JSON and UTF-8, may not."""
    base, now = genuine(sent)[0], int(time.time())
    bodies = {
        "empty": b"",
        "not UTF-8": b"\xff\x00\xfe\r\n",
        "blanks": b'{ "a" : 1 }\r\n',
        "large": os.urandom(200_000),
    }
    return [
        *(base.but(f"a body: {name}", body=one).signed(now) for name, one in bodies.items()),
        base.having("webhook-signature", f"word {base.headers['webhook-signature']}"),
    ]


def weak_secrets(sent: Sent) -> list[Case]:
    """Return deliveries signed with keys that anybody knows, to receivers that hold such a secret by mistake."""
    base, now = genuine(sent)[0].but("", valid=False), int(time.time())
    short = "whsec_" + base64.b64encode(b"secret").decode()
    keys = {"": b"", "whsec_": b"", "whsec_!": b"", short: b"secret", sent.old[6:]: decode_secret(sent.old)}
    return [base.but(f"the secret {secret!r}", secret=secret).signed(now, key) for secret, key in keys.items()]


def _recoded(legacy: str) -> str:
    return f"v1,{base64.b64encode(bytes.fromhex(legacy)).decode()}"


def run_receiver(command: list[str], folder: Path, cases: list[Case], **env: str) -> list[bool]:
    """Run a driver on cases and return what the receiver's code said of each. Fails when it raised."""
    wanted = [
        {"secret": case.secret, "headers": dict(case.headers), "body": base64.b64encode(case.body).decode()}
        for case in cases
    ]
    said: list[bool] = json.loads(run(command, folder, json.dumps(wanted), **env))
    assert len(said) == len(cases) and all(isinstance(one, bool) for one in said), said
    return said


def run(command: list[str], folder: Path, stdin: str = "", **env: str) -> str:
    """Run a command that has to succeed in a bare environment, and return what it printed."""
    bare = {"HOME": str(folder), "PATH": SYSTEM_PATH, "LANG": "C.UTF-8", **env}
    ended = subprocess.run(
        command, cwd=folder, env=bare, input=stdin, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert ended.returncode == 0, f"{command}: {ended.stdout[-2000:]}\n{ended.stderr[-4000:]}"
    assert ended.stderr == "", ended.stderr
    return ended.stdout


def python(code: str, folder: Path, cases: list[Case], function: str = "verify") -> list[bool]:
    (folder / "example.py").write_text(code)
    command = [sys.executable, "-W", "error", str(DRIVERS / "driver.py"), function]
    return run_receiver(command, folder, cases, PYTHONPATH=str(folder))


def node(code: str, folder: Path, cases: list[Case], modules: Path | None = None) -> list[bool]:
    (folder / "example.mjs").write_text(code)
    shutil.copy(DRIVERS / "driver.mjs", folder)
    if modules is not None:
        (folder / "node_modules").symlink_to(modules)
    return run_receiver(["node", "driver.mjs"], folder, cases)


def go(code: str, folder: Path, cases: list[Case]) -> list[bool]:
    (folder / "webhook").mkdir()
    (folder / "webhook/verify.go").write_text(code)
    (folder / "go.mod").write_text("module example\n\ngo 1.19\n")
    shutil.copy(DRIVERS / "driver.go", folder)
    env = {"GOCACHE": str(folder / "cache"), "GOPATH": str(folder / "path"), "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
    run(["go", "build", "-o", "driver", "."], folder, **env)
    return run_receiver(["./driver"], folder, cases)


def ruby(code: str, folder: Path, cases: list[Case]) -> list[bool]:
    (folder / "example.rb").write_text(code)
    shutil.copy(DRIVERS / "driver.rb", folder)
    return run_receiver(["ruby", "-w", "driver.rb"], folder, cases)


def php(code: str, folder: Path, cases: list[Case]) -> list[bool]:
    (folder / "example.php").write_text(code)
    shutil.copy(DRIVERS / "driver.php", folder)
    return run_receiver(["php", "-d", "error_reporting=-1", "-d", "display_errors=stderr", "driver.php"], folder, cases)


def shell(code: str, folder: Path, cases: list[Case]) -> list[bool]:
    """Lay each case down as files, header names in another case and lines ended as on the wire, and verify them."""
    (folder / "example.sh").write_text(code)
    for number, case in enumerate(cases):
        place = folder / f"cases/{number:04}"
        place.mkdir(parents=True)
        (place / "secret").write_text(f"{case.secret}\n")
        (place / "headers").write_bytes(
            b"".join(f"{name.title()}: {value}\r\n".encode() for name, value in case.headers.items())
        )
        (place / "body").write_bytes(case.body)
    said = run(["sh", "-u", str(DRIVERS / "driver.sh")], folder).split()
    return [bool({"true": True, "false": False}[one]) for one in said]


def wrong(cases: list[Case], said: list[bool]) -> list[Any]:
    """Return the cases that were judged otherwise than they had to be."""
    return [(case.name, one) for case, one in zip(cases, said, strict=True) if one != case.valid]
