"""Where secrets come from: what is refused, for every secret there is, and that no argument and no child holds one."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from secrets import token_urlsafe
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

import relay
from relay.cli.main import app
from relay.settings import SettingsError, load_settings
from relay.settings.credentials import credential_name
from relay.settings.generate import generate_secrets
from relay.settings.model import SECRETS
from relay.settings.strength import has_password
from relay.store.target import Target
from scripts.docs import commands
from tests.process import bare_environment, eventually, gateway_process
from tests.secret_samples import ADDRESSES, COMPANIONS, WHOLE, refusal, sample
from tests.worker_process import worker_process

TOP = Path(__file__).parents[2]
WEAK = ["changeme", "YOUR_KEY_HERE", "hunter2-Zk7", "Zk7canary9Qw" * 4, "abcdefghijklmnopqrstuvwxyz0123456789"]

Put = Callable[[Path, str, str], dict[str, str]]


def in_environment(folder: Path, name: str, value: str) -> dict[str, str]:
    return {name: value}


def in_file(folder: Path, name: str, value: str) -> dict[str, str]:
    return {f"{name}_FILE": str(private(folder / "a-file", value))}


def in_credential(folder: Path, name: str, value: str) -> dict[str, str]:
    return {"CREDENTIALS_DIRECTORY": str(private(folder / "credentials" / credential_name(name), value).parent)}


def in_dotenv(folder: Path, name: str, value: str) -> dict[str, str]:
    private(folder / ".env", f"{name}={value}")
    return {"RELAY_ENV": "local"}


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


every_place = pytest.mark.parametrize("put", [in_environment, in_file, in_credential, in_dotenv])


class TestWhatIsNoSecret:
    @every_place
    @pytest.mark.parametrize("value", WEAK)
    @pytest.mark.parametrize("name", sorted(WHOLE))
    def test_is_refused_wherever_it_stands(self, tmp_path: Path, name: str, value: str, put: Put) -> None:
        told = refusal({**COMPANIONS, **put(tmp_path, name, value)}, tmp_path, value)
        assert len(told) == 1 and told[0].startswith(f"{name}: ")

    @every_place
    @pytest.mark.parametrize("name", sorted(ADDRESSES))
    def test_nor_is_an_examples_password(self, tmp_path: Path, name: str, put: Put) -> None:
        address = re.sub(r":[^:@/]+@", ":YOUR-PASSWORD@", sample(name))
        told = refusal({**COMPANIONS, **put(tmp_path, name, address)}, tmp_path, "YOUR-PASSWORD")
        assert len(told) == 1 and told[0].startswith(f"{name}: ")


class TestExamples:
    """Whoever copies what the documentation shows does not start with it."""

    TEXTS = {
        str(path.relative_to(TOP)): path.read_text(encoding="utf-8")
        for folder in ("docs", "deploy")
        for path in sorted((TOP / folder).rglob("*"))
        if path.is_file() and path.suffix != ".json"
    } | {name: (TOP / name).read_text(encoding="utf-8") for name in ("README.md", "SECURITY.md", ".env.example")}
    ADDRESS = re.compile(r"\b((?:postgres(?:ql)?|rediss?|smtps?)://[^\s`'\"<>)]*:[^\s`'\"<>)]*@[^\s`'\",;)]*)")
    SCHEMES = {"postgres": "DATABASE_URL", "redis": "REDIS_URL", "rediss": "REDIS_URL", "smtp": "SMTP_URL"}

    @classmethod
    def found(cls) -> Iterator[tuple[str, str, str]]:
        names = "|".join(sorted(SECRETS))
        for page, text in cls.TEXTS.items():
            for name, value in re.findall(rf"\b({names})\"?(?:=|: )[\"']?([^\s\"'`|]+)", text):
                yield page, name, value
            for value in re.findall(r"\bwhsec_[A-Za-z0-9+/=_.…-]{4,}", text):
                yield page, "WEBHOOK_SIGNING_SECRET", value
            for address in cls.ADDRESS.findall(text):
                scheme = address.partition("://")[0].removesuffix("ql").replace("smtps", "smtp")
                yield page, cls.SCHEMES[scheme], address

    def test_none_is_accepted(self, tmp_path: Path) -> None:
        accepted = []
        for page, name, value in self.found():
            if value[0] in "/$%" or (name in ADDRESSES and not has_password(value)):
                continue  # a path, a variable of a shell, an address without a password
            for env in ("production", "local"):
                try:
                    load_settings({**COMPANIONS, "RELAY_ENV": env, name: value}, tmp_path)
                except SettingsError:
                    continue
                accepted.append((page, name, value))
        assert accepted == []

    @every_place
    def test_nor_is_what_others_have_published(self, tmp_path: Path, put: Put) -> None:
        published = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # pragma: allowlist secret
        told = refusal({**COMPANIONS, **put(tmp_path, "WEBHOOK_SIGNING_SECRET", published)}, tmp_path, published)
        assert len(told) == 1 and told[0].startswith("WEBHOOK_SIGNING_SECRET: is a placeholder")

    def test_there_are_some_and_a_real_one_would_be_found(self) -> None:
        assert {page for page, _, _ in self.found()} >= {".env.example", "README.md", "docs/configuration.md"}
        assert {name for _, name, _ in self.found()} >= {"SECRET_KEY", "DATABASE_URL", "SMTP_URL"}


class TestCredentialsFolder:
    """What stands under a credential's name is read by the same rules as any secret's file."""

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666])
    def test_a_file_that_others_can_use_is_refused(self, tmp_path: Path, mode: int) -> None:
        value = sample("SECRET_KEY")
        environ = in_credential(tmp_path, "SECRET_KEY", value)
        (tmp_path / "credentials/secret_key").chmod(mode)
        (problem,) = refusal(environ, tmp_path, value)
        assert problem.startswith("SECRET_KEY: others can ") and str(tmp_path / "credentials/secret_key") in problem

    def test_on_tmpfs_it_may_be_readable_but_not_writable(self, tmp_path: Path) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            environ = in_credential(Path(folder), "SECRET_KEY", sample("SECRET_KEY"))
            path = Path(folder, "credentials/secret_key")
            path.chmod(0o440)
            assert load_settings(environ, tmp_path).secret_key is not None
            path.chmod(0o460)
            assert "others can write" in refusal(environ, tmp_path)[0]

    @pytest.mark.timeout(20)
    @pytest.mark.parametrize("kind", ["fifo", "folder", "device", "nothing", "loop", "huge", "empty", "bytes"])
    def test_what_is_no_file_with_a_secret_is_refused(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "credentials" / "secret_key"
        path.parent.mkdir()
        if kind == "fifo":
            os.mkfifo(path, 0o600)
        elif kind == "folder":
            path.mkdir()
        elif kind in ("device", "nothing", "loop"):
            path.symlink_to({"device": "/dev/zero", "nothing": "gone", "loop": "secret_key"}[kind])
        else:
            private(path, "").write_bytes({"huge": b"x" * 70_000, "empty": b"", "bytes": b"\xff" * 40}[kind])
        (problem,) = refusal({"CREDENTIALS_DIRECTORY": str(path.parent)}, tmp_path)
        assert problem.startswith("SECRET_KEY: ") and str(path) in problem


class TestArguments:
    """No command takes a secret as an argument: whoever is on the machine reads the arguments of all processes."""

    SECRET = re.compile(r"secret|token|password|passphrase|passwd|pepper|credential|\bkey|_key", re.IGNORECASE)
    PUBLIC = {("relay audit verify", "--key")}
    """Arguments of such a name that are no secret: the key that verifies signatures."""

    @classmethod
    def parameters(cls) -> list[tuple[str, Any]]:
        return [(path, item) for path, command in commands() for item in command.params]

    def test_those_of_such_a_name_are_files_flags_or_ids(self) -> None:
        named = [(path, item) for path, item in self.parameters() if self.SECRET.search(" ".join(item.opts))]
        assert len(named) > 8
        for path, item in named:
            if (path, item.opts[0]) in self.PUBLIC or getattr(item, "is_flag", False) or item.opts[0].endswith("-file"):
                continue
            assert item.name in ("key", "key_id"), f"{path} {item.opts[0]}: is it a secret?"
            assert item.callback is not None, f"{path} {item.opts[0]} must refuse a key itself"

    def test_an_api_key_where_an_id_belongs_is_refused_unread(self) -> None:
        key = f"relay_sk_live_{token_urlsafe(40).replace('-', 'a').replace('_', 'b')}"
        tried = 0
        for path, item in self.parameters():
            if item.name in ("key", "key_id") and (path, item.opts[0]) not in self.PUBLIC:
                words = [key] if item.param_type_name == "argument" else [item.opts[0], key]
                ended = CliRunner().invoke(app, [*path.split()[1:], *words])
                assert ended.exit_code == 2 and key not in ended.output, path
                tried += 1
        assert tried >= 5

    def test_no_option_is_read_from_the_environment(self) -> None:
        assert [path for path, item in self.parameters() if item.envvar is not None] == []

    def test_none_is_a_secret_setting(self) -> None:
        options = {name.lstrip("-").replace("-", "_").upper() for _, item in self.parameters() for name in item.opts}
        assert options & SECRETS == set() and "DATA_DIR" in options


class TestProcesses:
    """A real process shows none of its secrets in its arguments, nor in the environment of who does not need them."""

    @pytest.fixture
    def secrets(self) -> dict[str, str]:
        return {**generate_secrets(), "REDIS_URL": f"redis://:{token_urlsafe(18)}@127.0.0.1:1/0"}

    @pytest.fixture
    def postgres(self, postgres_target: Target) -> str:
        return postgres_target.url.replace("postgresql+psycopg", "postgresql")

    async def test_given_as_files(self, tmp_path: Path, secrets: dict[str, str], postgres: str) -> None:
        folder = tmp_path / "files"
        env = {f"{name}_FILE": str(private(folder / name, value)) for name, value in secrets.items()}
        env = {**env, "DATABASE_URL": postgres, "REDIS_URL_FILE": ""}
        async with (
            worker_process(tmp_path / "worker", env) as worker,
            gateway_process(tmp_path / "home", env=env, args=("--workers", "2")) as gateway,
        ):
            await all_there(gateway.pid, 4)
            for tree in (family(worker.pid), family(gateway.pid)):
                assert held_by(tree, secrets, psutil.Process.cmdline) == []
                assert held_by(tree, secrets, environment) == []

    async def test_given_as_credentials(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        del secrets["REDIS_URL"]
        for name, value in secrets.items():
            given = in_credential(tmp_path, name, value)
        # A copy, which nobody edits meanwhile: every change restarts the server.
        source = tmp_path / "source"
        shutil.copytree(Path(relay.__file__).parent, source / "relay", ignore=shutil.ignore_patterns("__pycache__"))
        env = {"RELAY_ENV": "local", "PYTHONPATH": str(source), **given}
        async with gateway_process(tmp_path / "home", env=env, args=("--reload",)) as gateway:
            tree = await all_there(gateway.pid, 3)
            assert held_by(tree, secrets, psutil.Process.cmdline) == []
            assert held_by(tree, secrets, environment) == []
            assert not (gateway.data / "keys").exists()  # these are the ones that it works with

    async def test_given_in_the_environment(self, tmp_path: Path, secrets: dict[str, str], postgres: str) -> None:
        del secrets["REDIS_URL"]
        env = {**secrets, "DATABASE_URL": postgres, "AWS_SECRET_ACCESS_KEY": token_urlsafe(30)}
        async with gateway_process(tmp_path / "home", env=env, args=("--workers", "2")) as gateway:
            tree = await all_there(gateway.pid, 4)
            given = {**secrets, "AWS_SECRET_ACCESS_KEY": env["AWS_SECRET_ACCESS_KEY"]}
            assert held_by(tree, given, psutil.Process.cmdline) == []
            # Servers read them for themselves; Python's own helper process has no use for any.
            without = [process.pid for process in tree if not held_by([process], given, environment)]
            assert without == [process.pid for process in tree if "resource_tracker" in " ".join(process.cmdline())]
            assert len(without) == 1
            assert len(held_by(tree, given, environment)) == 3 * len(given)

    async def test_given_in_dotenv(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        del secrets["REDIS_URL"]
        home = tmp_path / "home"
        private(home / ".env", "".join(f"{name}={value}\n" for name, value in secrets.items()))
        async with gateway_process(home, env={"RELAY_ENV": "local"}) as gateway:
            tree = family(gateway.pid)
            assert held_by(tree, secrets, psutil.Process.cmdline) == [] == held_by(tree, secrets, environment)
            assert not (gateway.data / "keys").exists()

    async def test_the_demo_has_nothing_of_them(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        environ = {**bare_environment(tmp_path), **secrets, "DATABASE_URL": "postgresql://relay@127.0.0.1:1/relay"}
        command = [sys.executable, "-m", "relay", "demo"]
        with psutil.Popen(command, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as demo:

            async def server() -> list[psutil.Process]:
                return [child for child in children(demo) if "serve" in cmdline(child)]

            found = await eventually(server, 60)
            assert held_by(found, secrets, environment) == [] == held_by(found, secrets, psutil.Process.cmdline)
            assert demo.wait(120) == 0, demo.stderr.read().decode()


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children())
    except psutil.NoSuchProcess:
        return []


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:
        return []


async def all_there(pid: int, count: int) -> list[psutil.Process]:
    """Return a process with its descendants once there are so many and each has begun to run what it is to run."""

    async def look() -> list[psutil.Process]:
        tree = family(pid)
        begun = [process for process in tree if "relay" in " ".join(cmdline(process)) or "-c" in cmdline(process)]
        return tree if len(tree) == count == len(begun) else []

    found: list[psutil.Process] = await eventually(look, 60)
    return found


def environment(process: psutil.Process) -> list[str]:
    return list(process.environ().values())


def held_by(
    processes: list[psutil.Process], secrets: dict[str, str], of: Callable[[psutil.Process], list[str]]
) -> list[tuple[int, str]]:
    """Return which process holds which secret, in its arguments or its environment."""
    held = []
    for process in processes:
        words = of(process)
        held += [(process.pid, name) for name, value in secrets.items() if any(value in word for word in words)]
    return held
