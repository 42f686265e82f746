"""``relay webhook`` as an operator or a partner runs it: sign, verify, send, listen."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from relay import __version__
from relay.cli.main import app
from relay.crypto.webhooks import SCHEMES, Scheme, new_secret, new_secret_for
from relay.store.target import Target
from tests.gateway import open_gateway
from tests.webhooks_kit import BODY, events_of, make_receiver

SOURCES = Path(__file__).parents[2] / "src"
VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # pragma: allowlist secret
VECTOR_ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
VECTOR_BODY = '{"test": 2432232314}'
VECTOR_HEADERS = {
    "webhook-id": VECTOR_ID,
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def keep(path: Path, text: str) -> str:
    path.write_text(text + "\n")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    return keep(tmp_path / "secret", VECTOR_SECRET)


def relay(*arguments: str, given: str | bytes = "", home: Path | None = None, **env: str) -> Result:
    given_env = {"RELAY_DATA_DIR": str((home or Path("/nonexistent")) / "data"), "RELAY_ENV": "test", **env}
    return CliRunner().invoke(app, ["webhook", *arguments], input=given, env=given_env)


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(SOURCES),
        "HOME": str(home),
        "RELAY_DATA_DIR": str(home / "data"),
        "RELAY_ENV": "test",
    }


COMMAND = [sys.executable, "-c", "from relay.cli import main; main()", "webhook"]


def test_sign_gives_the_published_vector(secret_file: str) -> None:
    arguments = ["sign", "--secret-file", secret_file, "--id", VECTOR_ID, "--timestamp", "1614265330"]
    done = relay(*arguments, given=VECTOR_BODY)
    assert (done.exit_code, done.stdout) == (0, "".join(f"{n}: {v}\n" for n, v in VECTOR_HEADERS.items()))
    assert json.loads(relay(*arguments, "--json", given=VECTOR_BODY).stdout) == {"headers": VECTOR_HEADERS}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_was_signed_verifies(scheme: Scheme, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b'{"a":"\xc3\xa9"}\r\n\x00\xff')  # the bytes as they are, whatever they are
    secret = keep(tmp_path / "secret", new_secret_for(scheme))
    other = keep(tmp_path / "other", new_secret_for(scheme))
    common = ["--scheme", scheme, "--file", str(body)]
    signed = relay("sign", *common, "--secret-file", secret)
    assert signed.exit_code == 0, signed.output
    headers = tmp_path / "headers"
    headers.write_text(signed.stdout)
    verified = relay("verify", *common, "--headers-file", str(headers), "--secret-file", secret)
    assert (verified.exit_code, verified.stdout[:5]) == (0, "valid")
    both = relay(
        "verify", *common, "--headers-file", str(headers), "--secret-file", other, "--secret-file", secret, "--json"
    )
    assert (both.exit_code, json.loads(both.stdout)["valid"]) == (0, True)
    wrong = relay("verify", *common, "--headers-file", str(headers), "--secret-file", other, "--json")
    assert (wrong.exit_code, json.loads(wrong.stdout)) == (1, {"valid": False, "reason": "mismatch"})
    body.write_bytes(body.read_bytes() + b" ")
    changed = relay("verify", *common, "--headers-file", str(headers), "--secret-file", secret)
    assert changed.exit_code == 1 and changed.stdout.startswith("NOT valid")


def test_verify_says_why(secret_file: str) -> None:
    headers = [part for name, value in VECTOR_HEADERS.items() for part in ("-H", f"{name}: {value}")]
    common = ["verify", "--secret-file", secret_file]
    old = relay(*common, *headers, given=VECTOR_BODY)
    assert old.exit_code == 1 and "300 seconds" in old.stdout
    then = relay(*common, *headers, "--at", "1614265330", "--json", given=VECTOR_BODY)
    assert json.loads(then.stdout) == {"valid": True, "id": VECTOR_ID, "signed_at": "2021-02-25T15:02:10.000000Z"}
    missing = relay(*common, *headers[2:], "--at", "1614265330", given=VECTOR_BODY)
    assert missing.exit_code == 1 and "missing" in missing.stdout
    assert relay(*common, "-H", "no colon", given=VECTOR_BODY).exit_code == 2


def test_where_the_secret_comes_from(tmp_path: Path) -> None:
    secret, body = new_secret(), keep(tmp_path / "body", VECTOR_BODY)
    arguments = ["sign", "--file", body, "--id", "msg_1", "--timestamp", "1614265330"]
    by_file = relay(*arguments, "--secret-file", keep(tmp_path / "secret", secret)).stdout
    assert "v1," in by_file
    assert relay(*arguments, "--secret-file", "-", given=secret + "\n").stdout == by_file
    assert relay(*arguments, home=tmp_path, WEBHOOK_SIGNING_SECRET=secret).stdout == by_file
    nothing = relay(*arguments, home=tmp_path)
    assert nothing.exit_code == 2 and "--secret-file" in nothing.output
    assert not (tmp_path / "data").exists()
    both = relay("sign", "--secret-file", "-", given=VECTOR_SECRET)
    assert both.exit_code == 2 and "standard input" in both.output


@pytest.mark.parametrize("secret", ["whsec_relay-secret!", "short", "whsec_" + "A" * 43 + "="])
def test_a_weak_secret_is_refused_and_not_shown(secret: str, tmp_path: Path) -> None:
    done = relay("sign", "--secret-file", keep(tmp_path / "secret", secret), given=VECTOR_BODY)
    assert done.exit_code == 2 and secret not in done.output


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(VECTOR_SECRET)
    path.chmod(0o644)
    done = relay("sign", "--secret-file", str(path), given=VECTOR_BODY)
    assert done.exit_code == 2 and "chmod" in done.output


def test_no_option_takes_a_secret() -> None:
    """Anybody on the machine can read the arguments of a process."""
    for command in ("sign", "verify", "send", "listen"):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", relay(command, "--help").stdout)
        assert "--secret-file" in shown
        assert not re.search(r"--secret(?!-file)|--key\b|--token\b", shown)


async def test_send_reaches_a_receiver(sqlite_target: Target, tmp_path: Path) -> None:
    async with open_gateway(sqlite_target, tmp_path / "data") as gateway:
        receiver = await make_receiver(gateway)
        good, wrong = keep(tmp_path / "good", receiver.secret), keep(tmp_path / "wrong", new_secret())

        async def send(*arguments: str) -> tuple[int, str]:
            done = await asyncio.create_subprocess_exec(
                *COMMAND,
                "send",
                gateway.url + receiver.path,
                *arguments,
                env=environment(tmp_path),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            out, _ = await done.communicate(BODY)
            assert done.returncode is not None
            return done.returncode, out.decode()

        status, out = await send("--secret-file", good, "--id", "msg_cli", "--json")
        told = json.loads(out)
        assert (status, told["status"], told["headers"]["webhook-id"]) == (0, 200, "msg_cli")
        assert [event["signed_id"] for event in await events_of(gateway)] == ["msg_cli"]
        status, out = await send("--secret-file", wrong)
        assert status == 1 and out.startswith("401\n")
        # The data folder's own secret, which is that of /webhooks/relay, is not this receiver's.
        status, out = await send()
        assert status == 1 and out.startswith("401\n")


def test_send_says_why_nobody_answered(secret_file: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closing, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()

        def hang_up() -> None:
            taken, _ = closing.accept()
            heard.append(taken.recv(65536))
            taken.close()

        heard: list[bytes] = []
        rude = threading.Thread(target=hang_up, daemon=True)
        rude.start()
        for url, why in (
            (f"http://127.0.0.1:{port}/", f"No connection to 127.0.0.1:{port} could be made."),
            ("http://nothing.invalid/", "The name nothing.invalid could not be resolved."),
            (f"http://127.0.0.1:{closing.getsockname()[1]}/", "broke before a readable answer came"),
        ):
            done = relay("send", url, "--secret-file", secret_file, given="{}")
            assert done.exit_code == 1 and why in done.output, done.output
        rude.join()
        assert f"user-agent: relay/{__version__}\r\n".encode() in heard[0].lower()


def test_send_wants_a_url(secret_file: str) -> None:
    for url in ("ftp://127.0.0.1/", "127.0.0.1", "https://user:password@127.0.0.1/"):
        done = relay("send", url, "--secret-file", secret_file, given="{}")
        assert done.exit_code == 2 and "The URL must" in done.output, done.output


class Listening:
    """A listener in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def end(self) -> str:
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return out


@contextmanager
def listening(home: Path, *arguments: str) -> Iterator[Listening]:
    process = subprocess.Popen(
        [*COMMAND, "listen", "--port", "0", *arguments],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found, line
        yield Listening(process, found[0])
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def post(url: str, body: bytes, headers: dict[str, str]) -> int:
    import urllib.error
    import urllib.request

    deadline = time.monotonic() + 30
    while True:
        try:
            request = urllib.request.Request(url, data=body, headers=headers, method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            refused.close()
            return refused.code
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_listen_prints_and_verifies_what_arrives(tmp_path: Path, secret_file: str) -> None:
    with listening(tmp_path, "--secret-file", secret_file, "--count", "2", "--json") as listener:
        signed = json.loads(relay("sign", "--secret-file", secret_file, "--json", given=BODY).stdout)["headers"]
        assert post(listener.url + "hook?x=1", BODY, signed) == 200
        assert post(listener.url, BODY + b" ", signed) == 401
        good, bad = (json.loads(line) for line in listener.end().splitlines())
    assert (good["path"], good["body"], good["method"]) == ("/hook?x=1", BODY.decode(), "POST")
    assert good["signature"]["valid"] is True and good["signature"]["id"] == signed["webhook-id"]
    assert bad["signature"] == {"valid": False, "reason": "mismatch"}


def test_listen_prints_nothing_that_a_terminal_obeys(tmp_path: Path) -> None:
    body = b'\x1b]0;owned\x07{"a":1}\r\n2030-01-01 POST /fake\x9b31m\xff\xe2\x80\xae'
    with listening(tmp_path, "--count", "1", "--answer", "503") as listener:
        assert post(listener.url + "%1b[2Jpath", body, {"X-Odd": "a\x9b31mb"}) == 503
        out = listener.end()
    assert not [char for char in out if not char.isprintable() and char != "\n"]
    assert "not verified" in out and "\\x1b]0;owned\\x07" in out and "\\u202e" in out
    assert next(line for line in out.splitlines() if "/fake" in line).startswith("    ")


def test_listen_is_for_this_machine_alone(tmp_path: Path) -> None:
    shown = re.sub(r"\x1b\[[0-9;]*m", "", relay("listen", "--help").stdout)
    assert "--host" not in shown
    with listening(tmp_path, "--count", "1") as listener:
        assert listener.url.startswith("http://127.0.0.1:")
        assert post(listener.url, b"x" * (1024 * 1024 + 1), {}) == 413
        assert post(listener.url, b"x", {}) == 200
        assert "not verified" in listener.end()


def test_listen_shows_no_request_that_did_not_arrive_whole(tmp_path: Path) -> None:
    with listening(tmp_path, "--count", "1", "--json") as listener:
        address = ("127.0.0.1", int(listener.url.rsplit(":", 1)[1].strip("/")))
        with socket.create_connection(address) as cut:
            cut.sendall(b'POST /cut HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"half"')
            cut.shutdown(socket.SHUT_WR)
            cut.settimeout(60)
            while cut.recv(1000):
                pass
        post(listener.url + "whole", b"{}", {})
        assert [json.loads(line)["path"] for line in listener.end().splitlines()] == ["/whole"]
