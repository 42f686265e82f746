"""``relay webhook``: sign, verify and send a webhook by hand, and listen for some while a receiver is written."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer

from relay.cli.context import fail, refuse, settings_or_exit
from relay.core.clock import MICROSECONDS, iso, now
from relay.core.ids import new_id
from relay.crypto.webhooks import Refused, Scheme, Verdict, key_of, signed_headers, verify
from relay.settings import SettingsError
from relay.settings.keys import find_webhook_secret
from relay.settings.secret_file import SecretFileError, read_secret_file

WRONG_USAGE: Final = 2
MAX_BODY: Final = 16 * 1024 * 1024
_SHOWN_ANSWER: Final = 1024

app = typer.Typer(no_args_is_help=True, help="Sign, verify, send and listen for webhooks.")

_Body = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="PATH", help="The body; standard input without it.")
]
_SECRET_HELP = "File of the secret, - for standard input; without it that of /webhooks/relay."  # noqa: S105 - a text
_SecretFile = Annotated[str | None, typer.Option("--secret-file", metavar="PATH", help=_SECRET_HELP)]
_SecretFiles = Annotated[
    list[str] | None,
    typer.Option("--secret-file", metavar="PATH", help=f"{_SECRET_HELP} Give it once for each that is valid."),
]
_Scheme = Annotated[Scheme, typer.Option("--scheme", help="How it is signed.")]
_Id = Annotated[str | None, typer.Option("--id", metavar="ID", help="The signed id; a fresh one without it.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("sign")
def sign(
    *,
    file: _Body = None,
    secret_file: _SecretFile = None,
    scheme: _Scheme = "standard",
    message_id: _Id = None,
    timestamp: Annotated[
        int | None, typer.Option("--timestamp", min=1, metavar="SECONDS", help="The signed time; now without it.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """Print the headers that sign a body; `curl -H @-` takes them as they are."""
    secret = _secret(secret_file, body_from_stdin=file is None)
    headers = _headers(scheme, secret, _body(file), message_id, timestamp)
    if as_json:
        typer.echo(json.dumps({"headers": headers}))
        return
    for name, value in headers.items():
        typer.echo(f"{name}: {value}")


@app.command("verify")
def verify_body(
    *,
    file: _Body = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A header that came; give it once for each."),
    ] = None,
    headers_file: Annotated[
        Path | None, typer.Option("--headers-file", metavar="PATH", help="File of headers, one a line.")
    ] = None,
    secret_file: _SecretFiles = None,
    scheme: _Scheme = "standard",
    at: Annotated[
        int | None,
        typer.Option("--at", min=1, metavar="SECONDS", help="When it came, in Unix seconds; now without it."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Verify a body with its headers; exit status 1 when the signature is not valid."""
    keys = keys_of(scheme, secrets_of(secret_file, body_from_stdin=file is None))
    lines = [*(header or ()), *(_lines(headers_file) if headers_file else ())]
    headers = [_split(line) for line in lines]
    moment = now() if at is None else at * MICROSECONDS
    verdict = judge(scheme, keys, headers, _body(file), moment)
    if as_json:
        typer.echo(json.dumps(verdict_view(verdict)))
    else:
        typer.echo(verdict_text(verdict))
    if isinstance(verdict, Refused):
        raise typer.Exit(1)


@app.command("send")
def send(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where to; http:// or https://.")],
    *,
    file: _Body = None,
    secret_file: _SecretFile = None,
    scheme: _Scheme = "standard",
    message_id: _Id = None,
    content_type: Annotated[str, typer.Option("--content-type", help="The body's media type.")] = "application/json",
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, max=600, help="Seconds to wait.")] = 15.0,
    as_json: _Json = False,
) -> None:
    """Sign a body and post it; exit status 1 unless the answer is a success.

    It goes wherever you say, this machine included: the rules of egress are for destinations that others choose.
    """
    from relay.egress.operator import NotSent, NoUrl, post

    secret = _secret(secret_file, body_from_stdin=file is None)
    body = _body(file)
    headers = _headers(scheme, secret, body, message_id, None)
    try:
        answer = asyncio.run(post(url, {**headers, "Content-Type": content_type}, body, seconds=timeout))
    except NoUrl as error:
        fail(str(error), WRONG_USAGE)
    except NotSent as error:
        fail(str(error))
    text = answer.body[:_SHOWN_ANSWER].decode("utf-8", "backslashreplace")
    if as_json:
        typer.echo(json.dumps({"status": answer.status, "headers": headers, "answer": text}))
    else:
        typer.echo(f"{answer.status}\n{printable(text)}")
    if not 200 <= answer.status < 300:
        raise typer.Exit(1)


@app.command("listen")
def listen(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 8090,
    secret_file: _SecretFiles = None,
    scheme: _Scheme = "standard",
    answer: Annotated[int, typer.Option("--answer", min=200, max=599, help="Status to answer with.")] = 200,
    count: Annotated[int | None, typer.Option("--count", min=1, help="End after so many.")] = None,
    as_json: _Json = False,
) -> None:
    """Print what arrives on this machine and whether its signature is valid, until interrupted.

    Without --secret-file nothing is verified. A signature that is not valid is answered with 401.
    """
    from relay.cli.webhook_listener import run_listener

    keys = keys_of(scheme, secrets_of(secret_file, body_from_stdin=False)) if secret_file else None
    try:
        run_listener(port=port, scheme=scheme, keys=keys, answer=answer, count=count, as_json=as_json)
    except OSError as error:
        fail(f"cannot listen on 127.0.0.1:{port}: {error.strerror or type(error).__name__}")


def judge(scheme: Scheme, keys: list[bytes], headers: list[tuple[bytes, bytes]], body: bytes, at: int) -> Verdict:
    """Return the verdict on a body; ``headers`` have lower-case names, ``at`` is in microseconds."""

    def only(name: bytes) -> bytes | None:
        found = [value for key, value in headers if key == name]
        return found[0] if len(found) == 1 else None

    if scheme == "legacy" and sum(key == b"x-webhook-version" for key, _ in headers) > 1:
        return Refused("malformed")
    return verify(scheme, keys, only, body, now=at)


def verdict_view(verdict: Verdict) -> dict[str, object]:
    """Return a verdict as JSON shows it."""
    if isinstance(verdict, Refused):
        return {"valid": False, "reason": verdict.reason}
    signed_at = None if verdict.signed_at is None else iso(verdict.signed_at)
    return {"valid": True, "id": verdict.id, "signed_at": signed_at}


def verdict_text(verdict: Verdict) -> str:
    """Return a verdict as a sentence."""
    if isinstance(verdict, Refused):
        return {
            "missing": "NOT valid: a header of this scheme is missing, or there twice",
            "malformed": "NOT valid: a header is malformed",
            "stale": "NOT valid: signed more than 300 seconds before or after",
            "mismatch": "NOT valid: no secret given here has signed this body",
        }[verdict.reason]
    told = [f"id {verdict.id}"] if verdict.id is not None else []
    told += [f"signed at {iso(verdict.signed_at)}"] if verdict.signed_at is not None else []
    return ", ".join(["valid", *told])


def printable(text: str) -> str:
    """Return text that no terminal obeys: every character but line breaks that does not print is escaped."""
    return "".join(
        char if char.isprintable() or char == "\n" else char.encode("unicode_escape").decode() for char in text
    )


def secrets_of(files: list[str] | None, *, body_from_stdin: bool) -> list[str]:
    """Return the secrets of these files, or that of ``/webhooks/relay`` without any; ends with status 2 otherwise."""
    if not files:
        return [_own_secret()]
    return [_secret(file, body_from_stdin=body_from_stdin) for file in files]


def keys_of(scheme: Scheme, secrets: list[str]) -> list[bytes]:
    """Return the secrets' keys; ends with status 2 for one that is not good enough for the scheme."""
    try:
        return [key_of(scheme, secret) for secret in secrets]
    except ValueError as error:
        fail(f"the secret {error}", WRONG_USAGE)


def _secret(file: str | None, *, body_from_stdin: bool) -> str:
    if file is None:
        return _own_secret()
    if file == "-":
        if body_from_stdin:
            fail("the secret and the body cannot both come from standard input; give --file", WRONG_USAGE)
        return sys.stdin.readline().rstrip("\r\n")
    try:
        return read_secret_file(Path(file))
    except SecretFileError as error:
        fail(str(error), WRONG_USAGE)


def _own_secret() -> str:
    settings = settings_or_exit()
    try:
        found = find_webhook_secret(settings)
    except SettingsError as error:
        refuse(error)
    if found is None:
        fail("there is no WEBHOOK_SIGNING_SECRET here; give --secret-file", WRONG_USAGE)
    return found.get_secret_value()


def _body(file: Path | None) -> bytes:
    try:
        body = sys.stdin.buffer.read(MAX_BODY + 1) if file is None else file.read_bytes()
    except OSError as error:
        fail(f"cannot read {file}: {error.strerror or type(error).__name__}", WRONG_USAGE)
    if len(body) > MAX_BODY:
        fail(f"the body has more than {MAX_BODY} bytes", WRONG_USAGE)
    return body


def _headers(scheme: Scheme, secret: str, body: bytes, message_id: str | None, timestamp: int | None) -> dict[str, str]:
    stamp = int(time.time()) if timestamp is None else timestamp
    keys_of(scheme, [secret])
    try:
        return signed_headers(scheme, secret, body, id=message_id or new_id("msg"), timestamp=stamp)
    except ValueError as error:
        fail(str(error), WRONG_USAGE)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        fail(f"cannot read {file} as UTF-8 text", WRONG_USAGE)
    return [line for line in text.splitlines() if line.strip()]


def _split(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        fail("a header reads 'Name: value'", WRONG_USAGE)
    return name.strip().lower().encode(), value.strip().encode()
