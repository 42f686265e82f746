"""AWS Secrets Manager as a source, against a server that speaks its protocol on this machine."""

import json
import logging
import math
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from relay.settings import Settings, aws, load_settings
from relay.settings.generate import generate_secrets
from relay.settings.model import SECRETS
from tests.process import bare_environment, gateway_process
from tests.secret_samples import COMPANIONS, held, refusal, sample

REGION = "eu-central-1"


@dataclass
class Manager:
    """A Secrets Manager, and the settings that name a secret in it."""

    url: str
    client: Any

    def environ(self, **more: str) -> dict[str, str]:
        named = {"SECRETS_AWS_ID": "relay/production", "SECRETS_AWS_REGION": REGION}
        return {**named, "SECRETS_AWS_ENDPOINT_URL": self.url, **COMPANIONS, **more}

    def put(self, members: Any) -> str:
        """Store a secret, as JSON unless it is text or bytes already, and return its ARN."""
        if isinstance(members, bytes):
            made = self.client.create_secret(Name="relay/production", SecretBinary=members)
        else:
            text = members if isinstance(members, str) else json.dumps(members)
            made = self.client.create_secret(Name="relay/production", SecretString=text)
        arn: str = made["ARN"]
        return arn


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def manager(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Manager]:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "an-identity",
        "AWS_SECRET_ACCESS_KEY": "not-looked-at",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    # A session of the test's own: the default one is Relay's to set and to put back.
    client = boto3.session.Session().client("secretsmanager", region_name=REGION, endpoint_url=server)
    yield Manager(server, client)
    client.delete_secret(SecretId="relay/production", ForceDeleteWithoutRecovery=True)
    client.close()


def load(environ: dict[str, str], cwd: Path) -> Settings:
    return load_settings(environ, cwd)


class TestWhatIsTaken:
    def test_every_secret(self, manager: Manager, tmp_path: Path) -> None:
        members = {name: sample(name) for name in SECRETS}
        manager.put(members)
        settings = load(manager.environ(), tmp_path)
        assert {name: held(settings, name) for name in SECRETS} == members
        assert settings.warnings == () and boto3.DEFAULT_SESSION is None

    def test_by_arn_which_names_the_region(self, manager: Manager, tmp_path: Path) -> None:
        value = sample("SECRET_KEY")
        arn = manager.put({"SECRET_KEY": value})
        settings = load(manager.environ(SECRETS_AWS_ID=arn, SECRETS_AWS_REGION=""), tmp_path)
        assert held(settings, "SECRET_KEY") == value

    def test_what_is_empty_or_missing_is_none(self, manager: Manager, tmp_path: Path) -> None:
        manager.put({"SECRET_KEY": "", "METRICS_TOKEN": sample("METRICS_TOKEN")})
        settings = load(manager.environ(), tmp_path)
        assert settings.secret_key is None and settings.oauth_encryption_key is None
        assert settings.metrics_token is not None

    def test_other_secrets_may_stand_elsewhere(self, manager: Manager, tmp_path: Path) -> None:
        members = {"SECRET_KEY": sample("SECRET_KEY")}
        token = sample("METRICS_TOKEN")
        manager.put(members)
        settings = load(manager.environ(METRICS_TOKEN=token), tmp_path)
        assert held(settings, "METRICS_TOKEN") == token
        assert held(settings, "SECRET_KEY") == members["SECRET_KEY"]

    def test_nothing_of_it_is_imported_without_it(self, tmp_path: Path) -> None:
        program = (
            "import sys; sys.modules['boto3'] = sys.modules['botocore'] = sys.modules['pydantic_settings'] = None\n"
            "from relay.settings import load_settings; print(load_settings().secrets_aws_id)"
        )
        command = [sys.executable, "-c", program]
        ended = subprocess.run(
            command,
            cwd=tmp_path,
            env=bare_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.stdout == "None\n", ended.stderr

    def test_nothing_of_it_is_logged_at_any_level(
        self, manager: Manager, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        members = {"SECRET_KEY": sample("SECRET_KEY")}
        manager.put(members)
        caplog.set_level(logging.DEBUG)
        logging.getLogger("botocore").setLevel(logging.DEBUG)
        load(manager.environ(), tmp_path)
        assert members["SECRET_KEY"] not in caplog.text


async def test_a_server_starts_with_it_alone(manager: Manager, tmp_path: Path) -> None:
    manager.put(generate_secrets())
    env = {
        **{name: value for name, value in manager.environ().items() if name.startswith("SECRETS_AWS_")},
        "AWS_ACCESS_KEY_ID": "an-identity",
        "AWS_SECRET_ACCESS_KEY": "not-looked-at",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SECRETS_FROM_ENVIRONMENT": "",
    }
    async with gateway_process(tmp_path / "home", env=env) as gateway, gateway.client() as client:
        assert (await client.get("/version")).status == 200
        assert not (gateway.data / "keys").exists() or list((gateway.data / "keys").iterdir()) == []
        assert "secrets in the process environment" not in gateway.log


class TestWhatIsRefused:
    @pytest.mark.parametrize("elsewhere", ["SECRET_KEY", "SECRET_KEY_FILE"])
    def test_a_secret_that_stands_elsewhere_too(self, manager: Manager, tmp_path: Path, elsewhere: str) -> None:
        value, other = sample("SECRET_KEY"), sample("SECRET_KEY")
        manager.put({"SECRET_KEY": value})
        (tmp_path / "key").write_text(other)
        (tmp_path / "key").chmod(0o600)
        given = {elsewhere: str(tmp_path / "key") if elsewhere.endswith("_FILE") else other}
        (problem,) = refusal(manager.environ(**given), tmp_path, value, other)
        assert problem.startswith("SECRET_KEY: is given twice")
        assert "AWS secret relay/production" in problem and elsewhere in problem

    def test_a_secret_that_is_not_there(self, manager: Manager, tmp_path: Path) -> None:
        manager.put({})
        (problem,) = refusal(manager.environ(SECRETS_AWS_ID="relay/staging"), tmp_path)
        assert problem.startswith("SECRETS_AWS_ID: there is no such secret") and "relay/staging" in problem

    def test_one_that_is_to_be_deleted(self, manager: Manager, tmp_path: Path) -> None:
        manager.put({"SECRET_KEY": sample("SECRET_KEY")})
        manager.client.delete_secret(SecretId="relay/production", RecoveryWindowInDays=7)
        (problem,) = refusal(manager.environ(), tmp_path)
        assert problem.startswith("SECRETS_AWS_ID: AWS refuses it (InvalidRequestException)")

    def test_names_and_values_that_do_not_belong_there(self, manager: Manager, tmp_path: Path) -> None:
        stray, key = sample("METRICS_TOKEN"), sample("SECRET_KEY")
        manager.put({"SECRETKEY": key, stray: "METRICS_TOKEN", "RELAY_PORT": "9000", "SMTP_URL": {"password": key}})
        told = refusal(manager.environ(), tmp_path, stray, key)
        assert [line.split(":")[0] for line in told] == ["RELAY_PORT", "SECRETS_AWS_ID", "SMTP_URL"]
        assert "is not a secret" in told[0] and "2 of them; did you mean SECRET_KEY?" in told[1]
        assert "must be text in double quotes (AWS secret relay/production)" in told[2]

    @pytest.mark.parametrize("value", [5, None, True, [], {}])
    def test_a_value_that_is_no_text(self, manager: Manager, tmp_path: Path, value: Any) -> None:
        manager.put({"SECRET_KEY": value})
        (problem,) = refusal(manager.environ(), tmp_path)
        assert problem.startswith("SECRET_KEY: must be text in double quotes")

    @pytest.mark.parametrize("value", ["changeme", "too-short", "aaaa" * 16, "line\nbreak-Kx8vTq2Lm7ZpW4nR9sYc3Hf6Jd1"])
    def test_a_value_that_is_no_secret(self, manager: Manager, tmp_path: Path, value: str) -> None:
        manager.put({"SECRET_KEY": value})
        (problem,) = refusal(manager.environ(), tmp_path, value)
        assert problem.startswith("SECRET_KEY: ") and problem.endswith("(AWS secret relay/production)")

    @pytest.mark.parametrize(
        "text", ["not JSON: {}", '["{}"]', '"{}"', '{{"SECRET_KEY": "{}"', "[" * 30_000 + "{}", b"{}"]
    )
    def test_what_is_no_json_object(self, manager: Manager, tmp_path: Path, text: str | bytes) -> None:
        value = sample("SECRET_KEY")
        manager.put(text.replace(b"{}", value.encode()) if isinstance(text, bytes) else text.replace("{}", value))
        (problem,) = refusal(manager.environ(), tmp_path, value)
        says = "this one is binary" if isinstance(text, bytes) else "must hold a JSON object"
        assert problem.startswith("SECRETS_AWS_ID: ") and says in problem


class TestWhoCannotBeAsked:
    def test_nothing_is_installed(self, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manager.put({})
        for module in ("boto3", "pydantic_settings"):
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, module, None)
                (problem,) = refusal(manager.environ(), tmp_path)
            assert "needs the extra `aws`" in problem and "requirements/aws.txt" in problem
        assert (Path(__file__).parents[2] / "requirements/aws.txt").exists()

    def test_access_is_denied(self, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manager.put({})
        with _enforced(manager.url) as user:
            for key in ("nobody-that-is-known", user["AccessKeyId"]):
                monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
                monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", user["SecretAccessKey"])
                (problem,) = refusal(manager.environ(), tmp_path, user["SecretAccessKey"])
                assert problem.startswith("SECRETS_AWS_ID: access is denied (")

    @pytest.mark.parametrize(
        ("code", "says"),
        [
            ("AccessDeniedException", "access is denied (AccessDeniedException)"),
            ("ExpiredTokenException", "access is denied (ExpiredTokenException)"),
            ("DecryptionFailure", "AWS refuses it (DecryptionFailure)"),
            ("<script>", "AWS refuses it (without a code)"),
        ],
    )
    def test_as_aws_itself_says_it(self, manager: Manager, tmp_path: Path, code: str, says: str) -> None:
        manager.put({})
        body = json.dumps({"__type": code, "message": "what-it-says-is-not-shown"}).encode()
        head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\nConnection: close\r\n"
        with _talking(head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)) as url:
            (problem,) = refusal(manager.environ(SECRETS_AWS_ENDPOINT_URL=url), tmp_path, "what-it-says-is-not-shown")
        assert says in problem

    def test_there_is_no_identity(self, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manager.put({})
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        (problem,) = refusal(manager.environ(), tmp_path)
        assert "there are no AWS credentials" in problem

    def test_there_is_no_region(self, manager: Manager, tmp_path: Path) -> None:
        manager.put({})
        (problem,) = refusal(manager.environ(SECRETS_AWS_REGION=""), tmp_path)
        assert "Set SECRETS_AWS_REGION" in problem

    def test_nobody_listens(self, manager: Manager, tmp_path: Path) -> None:
        manager.put({})
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        (problem,) = refusal(manager.environ(SECRETS_AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}"), tmp_path)
        assert "AWS cannot be asked (EndpointConnectionError)" in problem

    def test_nobody_answers_in_time(self, manager: Manager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        manager.put({})
        monkeypatch.setattr(aws, "READ_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}"
            (problem,) = refusal(manager.environ(SECRETS_AWS_ENDPOINT_URL=url), tmp_path)
        assert "AWS does not answer within" in problem

    def test_what_answers_is_something_else(self, manager: Manager, tmp_path: Path) -> None:
        manager.put({})
        with _talking(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot AWS.\n") as url:
            (problem,) = refusal(manager.environ(SECRETS_AWS_ENDPOINT_URL=url), tmp_path)
        assert problem.startswith("SECRETS_AWS_ID: ")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("SECRETS_AWS_ENDPOINT_URL", "http://secretsmanager.eu-central-1.amazonaws.com"),
            ("SECRETS_AWS_ENDPOINT_URL", "ftp://127.0.0.1"),
            ("SECRETS_AWS_REGION", "eu-central-1.evil.example"),
            ("SECRETS_AWS_ID", "two secrets"),
            ("SECRETS_AWS_ID", "arn:aws:s3:::bucket"),
        ],
    )
    def test_wrong_settings_ask_nobody(self, manager: Manager, tmp_path: Path, name: str, value: str) -> None:
        manager.put({"SECRET_KEY": "changeme"})
        (problem,) = refusal(manager.environ(**{name: value}), tmp_path)
        assert problem.startswith(f"{name}: must ")


@contextmanager
def _enforced(url: str) -> Iterator[dict[str, str]]:
    """Have the server ask who calls, and yield the access key of a user who may do nothing."""
    iam = boto3.session.Session().client("iam", region_name=REGION, endpoint_url=url)
    iam.create_user(UserName="nobody")
    user: dict[str, str] = iam.create_access_key(UserName="nobody")["AccessKey"]
    _after_requests(url, 0)
    try:
        yield user
    finally:
        _after_requests(url, math.inf)
        iam.delete_access_key(UserName="nobody", AccessKeyId=user["AccessKeyId"])
        iam.delete_user(UserName="nobody")
        iam.close()


def _after_requests(url: str, count: float) -> None:
    plain = {"Content-Type": "text/plain"}
    asked = urllib.request.Request(f"{url}/moto-api/reset-auth", str(count).encode(), plain, method="POST")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        assert answer.status == 200


@contextmanager
def _talking(answer: bytes) -> Iterator[str]:
    """A server that says the same to everybody."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    peer.recv(65536)
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
