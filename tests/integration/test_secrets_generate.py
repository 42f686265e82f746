"""`relay secrets generate`: every form that it prints is really used, and Relay starts with what comes of it."""

import json
import os
import pty
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from relay.cli.main import app
from relay.cli.secrets_formats import Format, in_form
from relay.settings import load_settings
from relay.settings.generate import MAKERS, WHOLE_SET, generate_secrets
from relay.settings.model import SECRETS
from relay.store.target import Target
from tests.process import bare_environment, gateway_process
from tests.secret_samples import held, refusal

TOP = Path(__file__).parents[2]
SCRIPTS: tuple[Format, ...] = ("systemd", "systemd-plain", "compose", "railway")
FORMS: tuple[Format, ...] = ("env", *SCRIPTS, "kubernetes")
Run = subprocess.CompletedProcess[str]


def generate(home: Path, *args: str) -> Run:
    command = [sys.executable, "-m", "relay", "secrets", "generate", *args]
    return subprocess.run(
        command, cwd=home, env=bare_environment(home), capture_output=True, text=True, timeout=60, check=False
    )


def run_script(home: Path, script: str, **env: str) -> Run:
    """Run a script as the documentation says, on standard input, and have the shell show each command it runs."""
    path = f"{home / 'bin'}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", "-x"],
        cwd=home,
        env={"PATH": path, **env},
        input=script,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def command(home: Path, name: str, script: str) -> None:
    """Put a command in front of all others."""
    (home / "bin").mkdir(exist_ok=True)
    (home / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (home / "bin" / name).chmod(0o755)


def never_shown(ended: Run, secrets: dict[str, str]) -> None:
    """Fail if a command of a script got a secret as an argument."""
    assert ended.returncode == 0, ended.stderr
    assert "+ " in ended.stderr and [name for name in secrets if secrets[name] in ended.stderr + ended.stdout] == []


def files_in(folder: Path) -> dict[str, str]:
    """Return the secrets that a folder of files holds, and make sure that they are their owner's alone."""
    for path in folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return {path.name.upper(): path.read_text().removesuffix("\n") for path in folder.iterdir()}


@pytest.fixture
def secrets() -> dict[str, str]:
    return generate_secrets()


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder on tmpfs, where platforms put secrets under modes of their own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


class TestTheCommand:
    def test_a_set_is_whole_new_and_accepted(self, tmp_path: Path) -> None:
        sets = []
        for _ in range(2):
            ended = generate(tmp_path)
            assert ended.returncode == 0
            found = dict(line.split("=", 1) for line in ended.stdout.splitlines())
            assert list(found) == list(WHOLE_SET) and len(found) >= 4
            settings = load_settings(found, tmp_path)
            assert {name: held(settings, name) for name in found} == found
            assert [value for value in found.values() if value in ended.stderr] == []
            assert "shown this once" in ended.stderr and "terminal" not in ended.stderr
            sets.append(found)
        assert not {*sets[0].values()} & {*sets[1].values()}
        assert list(tmp_path.iterdir()) == []

    def test_on_a_terminal_it_says_what_stays_there(self, tmp_path: Path) -> None:
        reader, terminal = pty.openpty()
        command = [sys.executable, "-m", "relay", "secrets", "generate", "--only", "METRICS_TOKEN"]
        ended = subprocess.run(
            command,
            env=bare_environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=True,
        )
        os.close(terminal)
        with os.fdopen(reader, "rb", buffering=0) as shown:
            assert shown.read(200).startswith(b"METRICS_TOKEN=")
        assert "terminal's history" in ended.stderr

    def test_json_is_what_the_source_for_aws_takes(self, tmp_path: Path) -> None:
        found = json.loads(CliRunner().invoke(app, ["secrets", "generate", "--json"]).stdout)
        assert list(found) == list(WHOLE_SET)
        assert load_settings(found, tmp_path).metrics_token is not None

    @pytest.mark.parametrize(
        "args", [("--json", "--format", "env"), ("--only", "DATABASE_URL"), ("--only", "x"), ("--format", "x"), ("x",)]
    )
    def test_wrong_usage(self, args: tuple[str, ...]) -> None:
        ended = CliRunner().invoke(app, ["secrets", "generate", *args])
        assert (ended.exit_code, ended.stdout) == (2, "")

    def test_one_alone(self) -> None:
        only = ["--only", "METRICS_TOKEN", "--only", "SECRET_KEY"]
        ended = CliRunner().invoke(app, ["secrets", "generate", "--format", "kubernetes", *only])
        assert [*yaml.safe_load(ended.stdout)["stringData"]] == ["metrics_token", "secret_key"]

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("value", ["two\nlines", "a'b", "$(id)", "END", 'a"b', "a b", ""])
    def test_what_a_form_cannot_carry_is_refused(self, form: Format, value: str) -> None:
        if value == "END":
            assert "END" in in_form(form, {"SECRET_KEY": "xENDx"})
            return
        with pytest.raises(ValueError, match="characters"):
            in_form(form, {"SECRET_KEY": value})

    def test_only_what_an_installation_can_make_is_made(self) -> None:
        assert MAKERS.keys() <= SECRETS
        others = {"DATABASE_URL", "REDIS_URL", "SMTP_URL", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY"}
        assert others & MAKERS.keys() == set()
        assert {"SECRET_KEY", "OAUTH_ENCRYPTION_KEY", "WEBHOOK_SIGNING_SECRET", "METRICS_TOKEN"} <= {*WHOLE_SET}

    def test_a_key_that_lets_somebody_act_is_made_only_for_whoever_asks(self, tmp_path: Path) -> None:
        assert {*MAKERS} - {*WHOLE_SET} == {"CHAT_API_KEY"}
        assert "CHAT_API_KEY" not in CliRunner().invoke(app, ["secrets", "generate"]).stdout
        asked = CliRunner().invoke(app, ["secrets", "generate", "--only", "CHAT_API_KEY"]).stdout
        settings = load_settings(dict([asked.strip().split("=", 1)]), tmp_path)
        assert f"CHAT_API_KEY={held(settings, 'CHAT_API_KEY')}\n" == asked


async def test_the_lines_for_dotenv_start_a_local_server(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".env").write_text(generate(home, "--format", "env").stdout)
    (home / ".env").chmod(0o600)
    async with gateway_process(home, env={"RELAY_ENV": "local"}) as gateway, gateway.client() as client:
        assert (await client.get("/version")).status == 200
        assert not (gateway.data / "keys").exists()


class TestSystemd:
    @pytest.fixture
    def creds(self, tmp_path: Path, debian: Callable[[str, str], None]) -> None:
        """The real systemd-creds, with its null key: the machine's own key is not for tests to make."""
        debian("systemd", "systemd-creds")
        real = shutil.which("systemd-creds")
        command(tmp_path, "systemd-creds", f'verb=$1; shift; exec {real} "$verb" --with-key=tpm2-absent "$@" 2>&1')

    @pytest.mark.usefixtures("creds")
    async def test_encrypted_credentials_start_a_server(
        self, tmp_path: Path, memory: Path, postgres_target: Target
    ) -> None:
        script = generate(tmp_path, "--format", "systemd").stdout
        secrets = values_in(script)
        never_shown(run_script(tmp_path, script, DESTDIR=str(tmp_path / "root")), secrets)
        lines = drop_in(tmp_path / "root", "relay.service")
        assert lines == drop_in(tmp_path / "root", "relay-worker@.service")
        for name, path in lines["LoadCredentialEncrypted"]:
            sealed = tmp_path / "root" / path.removeprefix("/")
            assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
            assert [value for value in secrets.values() if value.encode() in sealed.read_bytes()] == []
            decrypt(name, sealed, memory / name)
        url = postgres_target.url.replace("postgresql+psycopg", "postgresql")
        env = {"CREDENTIALS_DIRECTORY": str(memory), "DATABASE_URL": url, "SECRETS_FROM_ENVIRONMENT": ""}
        async with gateway_process(tmp_path / "home", env=env) as gateway, gateway.client() as client:
            assert (await client.get("/version")).status == 200
            assert "secrets in the process environment" not in gateway.log
        settings = load_settings(env, tmp_path)
        assert {name: held(settings, name) for name in secrets} == secrets

    def test_what_is_installed_with_the_units_names_the_same(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        assert run_script(tmp_path, in_form("systemd-plain", secrets), DESTDIR=str(tmp_path / "root")).returncode == 0
        lines = (TOP / "deploy/systemd/credentials.conf").read_text().splitlines()
        written = tmp_path / "root/etc/systemd/system/relay.service.d/secrets.conf"
        assert [line for line in lines if line and not line.startswith("#")] == written.read_text().splitlines()

    def test_plain_credentials_are_their_owners_alone(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        never_shown(run_script(tmp_path, in_form("systemd-plain", secrets), DESTDIR=str(tmp_path / "root")), secrets)
        folder = tmp_path / "root/etc/relay/credentials"
        assert files_in(folder) == secrets
        lines = drop_in(tmp_path / "root", "relay.service")["LoadCredential"]
        assert {name: f"/etc/relay/credentials/{name}" for name in map(str.lower, secrets)} == dict(lines)
        settings = load_settings({"CREDENTIALS_DIRECTORY": str(folder)}, tmp_path)
        assert {name: held(settings, name) for name in secrets} == secrets

    @pytest.mark.usefixtures("creds")
    @pytest.mark.parametrize(
        ("form", "unit"), [("systemd", "relay.service"), ("systemd-plain", "relay-worker@.service")]
    )
    def test_systemd_understands_the_lines(
        self, tmp_path: Path, debian: Callable[[str, str], None], secrets: dict[str, str], form: Format, unit: str
    ) -> None:
        debian("systemd", "systemd-analyze")
        assert run_script(tmp_path, in_form(form, secrets), DESTDIR=str(tmp_path / "root")).returncode == 0
        folder = tmp_path / "root/etc/systemd/system"
        text = re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", (TOP / "deploy/systemd" / unit).read_text())
        installed = folder / unit.replace("@.", "@1.")
        installed.write_text(text)

        def verify() -> Run:
            command = ["systemd-analyze", "verify", "--man=no", str(installed)]
            return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        ended = verify()
        assert (ended.returncode, ended.stderr) == (0, "")
        # It does read them: a line that it does not understand is told.
        with (folder / f"{unit}.d/secrets.conf").open("a") as file:
            file.write("LoadCredentials=x\n")
        if "@" in unit:
            (folder / f"{unit}.d").rename(folder / "relay-worker@1.service.d")
        assert "LoadCredentials" in verify().stderr


class TestCompose:
    async def test_files_and_yaml_start_a_server(self, tmp_path: Path) -> None:
        script = generate(tmp_path, "--format", "compose").stdout
        secrets = values_in(script)
        never_shown(run_script(tmp_path, script), secrets)
        assert files_in(tmp_path / "secrets") == secrets
        assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "compose.secrets.yaml").stat().st_mode) == 0o644, "compose is not run by root"
        override = yaml.safe_load((tmp_path / "compose.secrets.yaml").read_text())
        service = override["services"]["relay"]
        assert [*override["secrets"]] == service["secrets"] == [name.lower() for name in WHOLE_SET]
        env = {name: inside(tmp_path, override, path) for name, path in service["environment"].items()}
        async with gateway_process(tmp_path / "home", env={**env, "SECRETS_FROM_ENVIRONMENT": ""}) as gateway:
            assert not (gateway.data / "keys").exists()
            assert "secrets in the process environment" not in gateway.log
            assert (await gateway.verified())["ok"]

    def test_they_can_be_handed_to_the_containers_user(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        command(tmp_path, "chown", 'echo "$@" > chowned')
        assert run_script(tmp_path, in_form("compose", secrets), RELAY_UID="10001").returncode == 0
        owner, *paths = (tmp_path / "chowned").read_text().split()
        assert owner == "10001" and paths == [f"secrets/{name.lower()}" for name in secrets]


class TestKubernetes:
    def test_the_manifest_is_a_secret(self, secrets: dict[str, str]) -> None:
        manifest = yaml.safe_load(in_form("kubernetes", secrets))
        assert (manifest["apiVersion"], manifest["kind"], manifest["type"]) == ("v1", "Secret", "Opaque")
        assert {*manifest} == {"apiVersion", "kind", "metadata", "type", "stringData"}
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", manifest["metadata"]["name"])
        assert all(re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key) for key in manifest["stringData"])
        assert manifest["stringData"] == {name.lower(): value for name, value in secrets.items()}

    def test_the_deployment_in_the_checkout_has_the_same_lines(self, secrets: dict[str, str]) -> None:
        (container,), (volume,) = self.pod(secrets)["containers"], self.pod(secrets)["volumes"]
        spec = yaml.safe_load((TOP / "deploy/kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]
        for mine, theirs in (
            (container["env"], spec["containers"][0]["env"]),
            (container["volumeMounts"], spec["containers"][0]["volumeMounts"]),
            ([volume], spec["volumes"]),
        ):
            assert [entry for entry in mine if entry not in theirs] == []

    def pod(self, secrets: dict[str, str]) -> Any:
        comments = [line.removeprefix("#") for line in in_form("kubernetes", secrets).splitlines() if line[0] == "#"]
        return yaml.safe_load("\n".join(comments[comments.index("   spec:") :]))["spec"]

    def test_the_lines_for_the_pod_lead_to_it(self, tmp_path: Path, memory: Path, secrets: dict[str, str]) -> None:
        pod = self.pod(secrets)
        (container,), (volume,) = pod["containers"], pod["volumes"]
        manifest = yaml.safe_load(in_form("kubernetes", secrets))
        (mount,) = container["volumeMounts"]
        assert volume["secret"]["secretName"] == manifest["metadata"]["name"] and mount["name"] == volume["name"]
        assert mount["readOnly"] is True and volume["secret"]["defaultMode"] == 0o440
        kubelet(memory, manifest["stringData"], volume["secret"]["defaultMode"])
        env = {entry["name"]: entry["value"].replace(mount["mountPath"], str(memory)) for entry in container["env"]}
        settings = load_settings(env, tmp_path)
        assert {name: held(settings, name) for name in secrets} == secrets
        assert settings.warnings == ()


class TestRailway:
    def test_values_go_by_standard_input(self, tmp_path: Path) -> None:
        # What Railway's command line does with `variable set`: one NAME with --stdin, else NAME=value.
        command(
            tmp_path,
            "railway",
            'echo "$@" >> calls; [ "$1 $2" = "variable set" ] || exit 2\n'
            'case "$*" in *--stdin*) echo "$3=$(cat)" >> variables;; *) echo "$3" >> variables;; esac',
        )
        script = generate(tmp_path, "--format", "railway").stdout
        secrets = values_in(script)
        never_shown(run_script(tmp_path, script), secrets)
        calls = (tmp_path / "calls").read_text()
        assert [name for name, value in secrets.items() if value in calls] == []
        assert all("--skip-deploys" in line for line in calls.splitlines())
        variables = dict(line.split("=", 1) for line in (tmp_path / "variables").read_text().splitlines())
        settings = load_settings(variables, tmp_path)
        assert {name: held(settings, name) for name in secrets} == secrets
        assert settings.warnings == ()

    def test_it_stops_at_the_first_error(self, tmp_path: Path, secrets: dict[str, str]) -> None:
        command(tmp_path, "railway", 'echo "$3" >> calls; exit 1')
        assert run_script(tmp_path, in_form("railway", secrets)).returncode == 1
        assert len((tmp_path / "calls").read_text().splitlines()) == 1


@pytest.mark.parametrize("form", ["systemd", "systemd-plain", "compose"])
def test_nothing_that_exists_is_replaced(tmp_path: Path, form: Format, secrets: dict[str, str]) -> None:
    command(tmp_path, "systemd-creds", 'shift 2; shift; cat > "$1"')
    root = {"DESTDIR": str(tmp_path / "root")}
    assert run_script(tmp_path, in_form(form, secrets), **root).returncode == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    key = next(path for path in before if path.name.startswith("oauth_encryption_key"))
    again = run_script(tmp_path, in_form(form, generate_secrets()), **root)
    assert again.returncode == 1 and "exists, and is not replaced" in again.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    # One that is there is enough.
    for path in before:
        if path != key and path.parent.name != "bin":
            path.unlink()
    assert run_script(tmp_path, in_form(form, generate_secrets()), **root).returncode == 1
    assert key.read_bytes() == before[key]


def test_a_placeholder_in_a_generated_file_is_refused(tmp_path: Path, secrets: dict[str, str]) -> None:
    script = in_form("compose", {**secrets, "SECRET_KEY": "changeme"})
    assert run_script(tmp_path, script).returncode == 0
    (problem,) = refusal({"SECRET_KEY_FILE": str(tmp_path / "secrets/secret_key")}, tmp_path, "changeme")
    assert problem.startswith("SECRET_KEY: is a placeholder")


def values_in(script: str) -> dict[str, str]:
    """Return the secrets of a script, by the names that its commands give them."""
    found = {}
    for line, value in re.findall(r"(?m)^(\S.*) <<'END'\n(.+)\nEND$", script):
        if "\n" not in value:
            words = {re.sub(r"\W.*", "", word.rpartition("/")[2]).upper() for word in shlex.split(line)}
            words |= {word.removeprefix("--name=").upper() for word in shlex.split(line)}
            (name,) = words & {*WHOLE_SET}
            found[name] = value
    assert list(found) == list(WHOLE_SET)
    return found


def drop_in(root: Path, unit: str) -> dict[str, list[list[str]]]:
    """Return the credentials of a drop-in by their directive."""
    path = root / f"etc/systemd/system/{unit}.d/secrets.conf"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    head, *lines = path.read_text().splitlines()
    assert head == "[Service]"
    found: dict[str, list[list[str]]] = {}
    for line in lines:
        directive, _, value = line.partition("=")
        found.setdefault(directive, []).append(value.split(":"))
    return found


def decrypt(name: str, sealed: Path, path: Path) -> None:
    """Decrypt a credential under its name, into memory, for its reader alone, as systemd does."""
    command = ["systemd-creds", "decrypt", f"--name={name}", str(sealed), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    path.chmod(0o400)


def inside(home: Path, override: Any, path: str) -> str:
    """Return the file on the host that a container sees at ``path``."""
    folder, _, name = path.rpartition("/")
    assert folder == "/run/secrets"
    file: str = override["secrets"][name]["file"]
    return str(home / file)


def kubelet(folder: Path, data: dict[str, str], mode: int) -> None:
    """Lay a Secret out as the kubelet mounts it: on tmpfs, each key a link through a folder that can be exchanged."""
    version = folder / "..2030_01_01_00_00_00.1"
    version.mkdir()
    (folder / "..data").symlink_to(version.name)
    for name, value in data.items():
        (version / name).write_text(value)
        (version / name).chmod(mode)
        (folder / name).symlink_to(f"..data/{name}")
