"""`deploy/systemd`: sound and tight units. Relay works under its rules, with credentials as systemd gives them."""

import contextlib
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from relay.settings import load_settings
from relay.settings.model import SECRETS
from relay.settings.secret_file import SecretFileError, read_secret_file
from relay.settings.secret_text import generate_kek, generate_secret_key
from tests import confined
from tests.outside import OK, http_server
from tests.process import gateway_process

SYSTEMD = Path(__file__).parents[2] / "deploy/systemd"
UNIT = SYSTEMD / "relay.service"
WORKER = SYSTEMD / "relay-worker@.service"
MEMORY = Path("/dev/shm")
EXPOSURE = 11  # tenths, as systemd-analyze counts them
NOBODY = 65534


@pytest.fixture
def analyze(debian: Callable[[str, str], None]) -> Callable[..., subprocess.CompletedProcess[str]]:
    debian("systemd", "systemd-analyze")

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command = ["systemd-analyze", *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    return run


def environment(unit: Path = UNIT) -> dict[str, str]:
    return dict(line.split("=", 1) for line in confined.settings(str(unit))["Environment"])


@pytest.mark.parametrize(("unit", "command"), [(UNIT, "serve"), (WORKER, "worker")])
def test_the_unit_is_well_formed(
    analyze: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, unit: Path, command: str
) -> None:
    installed = tmp_path / unit.name.replace("@.", "@1.")
    text = unit.read_text()
    assert f"ExecStart=/opt/relay/.venv/bin/relay {command}\n" in text
    # Its command has to exist where it is verified, nothing else.
    installed.write_text(text.replace("/opt/relay/.venv/bin/relay", "/bin/true"))
    ended = analyze("verify", "--man=no", str(installed))
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("unit", [UNIT, WORKER])
def test_the_unit_exposes_little(analyze: Callable[..., subprocess.CompletedProcess[str]], unit: Path) -> None:
    ended = analyze("security", "--offline=yes", "--no-pager", f"--threshold={EXPOSURE}", str(unit))
    assert ended.returncode == 0, ended.stdout


@pytest.mark.parametrize("unit", [UNIT, WORKER])
def test_the_unit_holds_no_secret_and_stops_no_earlier_than_relay(unit: Path) -> None:
    named = {*SECRETS, *(f"{name}_FILE" for name in SECRETS)}
    assert not named & environment(unit).keys()
    assert not named & {line.partition("=")[0] for line in (SYSTEMD / "relay.env").read_text().splitlines()}
    read = confined.settings(str(unit))
    # A credential that is named and missing keeps the service from starting; which there are, a drop-in says.
    assert not {"LoadCredential", "LoadCredentialEncrypted", "SetCredential"} & read.keys()
    assert int(read["TimeoutStopSec"][0]) > load_settings({}).shutdown_grace_seconds + 10


@pytest.mark.parametrize("unit", [UNIT, WORKER])
def test_the_unit_is_well_formed_with_its_credentials(
    analyze: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, unit: Path
) -> None:
    installed = tmp_path / unit.name.replace("@.", "@1.")
    text = re.sub(r"/opt/relay/.venv/bin/relay", "/bin/true", unit.read_text())
    with_credentials = text + (SYSTEMD / "credentials.conf").read_text().replace("#Load", "Load")
    installed.write_text(with_credentials)
    ended = analyze("verify", "--man=no", str(installed))
    assert (ended.returncode, ended.stderr) == (0, "")


def test_the_shipped_settings_are_accepted() -> None:
    lines = [line for line in (SYSTEMD / "relay.env").read_text().splitlines() if not line.startswith("#")]
    settings = load_settings(dict(line.split("=", 1) for line in lines))
    assert settings.public_url == "https://relay.example.com" and settings.trusted_proxies


# Credentials. systemd 250 and newer leaves a root-owned file of mode 0400 with an ACL for the service's user, which
# shows as 0440, on tmpfs; and on ramfs, which has no ACLs, a file of mode 0400 that belongs to the service's user.


def _acl(reader: int, permission: int) -> bytes:
    """Return a POSIX ACL, as Linux keeps it, that opens to its owner and one more user."""
    anybody = 0xFFFFFFFF
    entries = [(1, permission, anybody), (2, permission, reader), (4, 0, anybody), (16, permission, anybody)]
    packed = [struct.pack("<HHI", *entry) for entry in [*entries, (32, 0, anybody)]]
    return struct.pack("<I", 2) + b"".join(packed)


@contextlib.contextmanager
def credentials(parent: Path, reader: int, **texts: str) -> Iterator[Path]:
    """Make a folder of credentials, in memory when ``parent`` is; files and folder carry systemd's ACLs."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix="relay-test-credentials-"))
    try:
        for name, text in texts.items():
            path = folder / name
            path.write_text(text)
            path.chmod(0o400)
            os.setxattr(path, "system.posix_acl_access", _acl(reader, 4))
        folder.chmod(0o500)
        os.setxattr(folder, "system.posix_acl_access", _acl(reader, 5))
        yield folder
    finally:
        folder.chmod(0o700)
        shutil.rmtree(folder)


@contextlib.contextmanager
def acting_as(user: int) -> Iterator[None]:
    before = os.geteuid()
    os.seteuid(user)
    try:
        yield
    finally:
        os.seteuid(before)


def test_credentials_are_read_as_systemd_leaves_them(tmp_path: Path) -> None:
    reader = NOBODY if os.geteuid() == 0 else os.geteuid()
    with credentials(MEMORY, reader, secret_key="a secret", own="another") as folder:
        given, own = folder / "secret_key", folder / "own"
        assert stat.S_IMODE(given.stat().st_mode) == 0o440
        os.removexattr(own, "system.posix_acl_access")
        own.chmod(0o400)
        os.chown(own, reader, -1)
        with acting_as(reader):
            assert read_secret_file(given) == "a secret"
            assert read_secret_file(own) == "another"


def test_the_same_on_a_disk_is_refused_to_whoever_owns_it(tmp_path: Path) -> None:
    path = tmp_path / "secret_key"
    path.write_text("a secret")
    path.chmod(0o440)
    with pytest.raises(SecretFileError, match="others can read"):
        read_secret_file(path)


# Relay under the unit's rules.


async def test_relay_works_under_the_units_rules(debian: Callable[[str, str], None], tmp_path: Path) -> None:
    debian("systemd", "systemd-analyze")
    under = (sys.executable, confined.__file__, str(UNIT))
    keys = {"secret_key": generate_secret_key(), "oauth_encryption_key": generate_kek()}
    with credentials(MEMORY, os.geteuid(), **keys) as folder:
        given = {name: value for name, value in environment().items() if name != "RELAY_DATA_DIR"}
        async with http_server(OK) as sink:
            env = {**given, "EGRESS_ALLOW": f"localhost:{sink.port}", "CREDENTIALS_DIRECTORY": str(folder)}
            async with gateway_process(tmp_path, env=env, under=under) as gateway, gateway.client() as client:
                status = Path(f"/proc/{gateway.pid}/status").read_text()
                assert "NoNewPrivs:\t1\n" in status and "Seccomp:\t2\n" in status, "it is confined"
                steps = [
                    {"action": "email.send", "params": {"to": ["a@example.com"], "subject": "s", "text": "t"}},
                    {"action": "http.request", "params": {"method": "GET", "url": f"http://localhost:{sink.port}/"}},
                    {"action": "relay.echo", "params": {"message": "hello"}},
                ]
                run_id = (await client.post("/ai/execute", {"steps": steps})).body["run_id"]
                run = await client.run_ended(run_id)
                assert run["status"] == "succeeded", run
                assert await gateway.stop() == 0
            kept = {path.stem for path in (gateway.data / "keys").iterdir()}
            assert kept == {"webhook_signing_secret"}, "the other keys are the credentials"
            await gateway.verified()
