"""Where each secret may stand: one place at a time, whichever it is, and which one it was is told."""

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.settings import Settings, SettingsError, load_settings
from relay.settings.credentials import credential_name
from relay.settings.model import SECRETS
from tests.secret_samples import COMPANIONS, held, sample

Put = Callable[[Path, str, str], dict[str, str]]

every_secret = pytest.mark.parametrize("name", sorted(SECRETS))


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)
    return path


def in_credential(folder: Path, name: str, value: str) -> dict[str, str]:
    path = write(folder / "credentials" / credential_name(name), value + "\n")
    return {"CREDENTIALS_DIRECTORY": str(path.parent)}


def in_file(folder: Path, name: str, value: str) -> dict[str, str]:
    return {f"{name}_FILE": str(write(folder / "a-file", value + "\n"))}


def in_environment(folder: Path, name: str, value: str) -> dict[str, str]:
    return {name: value}


def in_dotenv(folder: Path, name: str, value: str) -> dict[str, str]:
    write(folder / ".env", f"{name}={value}\n")
    return {"RELAY_ENV": "local"}


PLACES: dict[str, Put] = {
    "credentials/": in_credential,
    "a-file": in_file,
    "environment": in_environment,
    ".env": in_dotenv,
}


def load(environ: dict[str, str], cwd: Path) -> Settings:
    return load_settings({**COMPANIONS, **environ}, cwd)


def problems(environ: dict[str, str], cwd: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(environ, cwd)
    return caught.value.problems


@every_secret
@pytest.mark.parametrize("place", PLACES)
def test_every_secret_is_taken_from_every_place(tmp_path: Path, name: str, place: str) -> None:
    value = sample(name)
    settings = load(PLACES[place](tmp_path, name, value), tmp_path)
    assert held(settings, name) == value
    warned = [line for line in settings.warnings if line.startswith("secrets in the process environment")]
    assert [name in line for line in warned] == ([True] if place == "environment" else [])


@every_secret
@pytest.mark.parametrize(
    ("one", "other"), [pair for pair in itertools.combinations(PLACES, 2) if pair != ("environment", ".env")]
)
def test_a_secret_in_two_places_is_refused_and_both_are_named(tmp_path: Path, name: str, one: str, other: str) -> None:
    value = sample(name)
    environ = {**PLACES[one](tmp_path, name, value), **PLACES[other](tmp_path, name, value)}
    (problem,) = problems(environ, tmp_path)
    assert problem.startswith(f"{name}: is given twice")
    assert one in problem and other in problem and value not in problem


def test_the_environment_is_a_layer_above_dotenv(tmp_path: Path) -> None:
    value = sample("SECRET_KEY")
    environ = {**in_dotenv(tmp_path, "SECRET_KEY", sample("SECRET_KEY")), "SECRET_KEY": value}
    assert held(load(environ, tmp_path), "SECRET_KEY") == value


def test_what_is_empty_is_in_no_place(tmp_path: Path) -> None:
    value = sample("SECRET_KEY")
    environ = {**in_credential(tmp_path, "SECRET_KEY", value), "SECRET_KEY": "", "SECRET_KEY_FILE": ""}
    assert held(load(environ, tmp_path), "SECRET_KEY") == value
    assert load({"CREDENTIALS_DIRECTORY": ""}, tmp_path).secret_key is None


class TestCredentials:
    def test_a_unit_may_name_its_credentials_file_as_well(self, tmp_path: Path) -> None:
        value = sample("SECRET_KEY")
        environ = in_credential(tmp_path, "SECRET_KEY", value)
        (tmp_path / "link").symlink_to("credentials")
        for folder in ("credentials", "link"):
            environ["SECRET_KEY_FILE"] = str(tmp_path / folder / "secret_key")
            assert held(load(environ, tmp_path), "SECRET_KEY") == value

    def test_a_copy_of_it_is_another_place(self, tmp_path: Path) -> None:
        value = sample("SECRET_KEY")
        environ = {**in_credential(tmp_path, "SECRET_KEY", value), **in_file(tmp_path, "SECRET_KEY", value)}
        assert problems(environ, tmp_path)[0].startswith("SECRET_KEY: is given twice")

    @pytest.mark.parametrize("other", ["SECRET_KEY", "Secret_Key"])
    def test_one_in_other_letters_is_refused(self, tmp_path: Path, other: str) -> None:
        path = write(tmp_path / "credentials" / other, sample("SECRET_KEY"))
        (problem,) = problems({"CREDENTIALS_DIRECTORY": str(path.parent)}, tmp_path)
        assert problem.startswith("SECRET_KEY: ") and "must be called secret_key" in problem and other in problem

    def test_those_of_others_are_left_alone_unread(self, tmp_path: Path) -> None:
        for stranger in ("tls.key", "relay_port", "secret_key.cred", "database"):
            os.mkfifo(write(tmp_path / "credentials" / "x", "").with_name(stranger))
        settings = load({"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}, tmp_path)
        assert settings.secret_key is None and settings.port == 8000

    @pytest.mark.parametrize("folder", ["missing", "a-file"])
    def test_a_folder_that_is_none_is_refused(self, tmp_path: Path, folder: str) -> None:
        write(tmp_path / "a-file", "")
        (problem,) = problems({"CREDENTIALS_DIRECTORY": folder}, tmp_path)
        assert problem.startswith("CREDENTIALS_DIRECTORY: ") and str(tmp_path / folder) in problem

    def test_dotenv_cannot_name_the_folder(self, tmp_path: Path) -> None:
        environ = in_credential(tmp_path, "SECRET_KEY", sample("SECRET_KEY"))
        write(tmp_path / ".env", f"CREDENTIALS_DIRECTORY={environ['CREDENTIALS_DIRECTORY']}\n")
        assert load({"RELAY_ENV": "local"}, tmp_path).secret_key is None


@every_secret
def test_no_secret_is_taken_from_the_command_line(tmp_path: Path, name: str) -> None:
    value = sample(name)
    with pytest.raises(SettingsError) as caught:
        load_settings(COMPANIONS, tmp_path, overrides={name: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name}: is not taken from the command line") and value not in problem


def test_a_file_may_be_named_on_the_command_line(tmp_path: Path) -> None:
    value = sample("SECRET_KEY")
    path = write(tmp_path / "a-file", value)
    settings = load_settings({}, tmp_path, overrides={"SECRET_KEY_FILE": str(path)})
    assert held(settings, "SECRET_KEY") == value


def test_what_is_wrong_is_told_with_its_place(tmp_path: Path) -> None:
    environ = {
        **in_credential(tmp_path, "SECRET_KEY", "changeme"),
        **in_file(tmp_path, "METRICS_TOKEN", "changeme"),
        "OAUTH_ENCRYPTION_KEY": "changeme",
    }
    found = {problem.split(":")[0]: problem for problem in problems(environ, tmp_path)}
    assert f"(credential {tmp_path}/credentials/secret_key)" in found["SECRET_KEY"]
    assert f"(METRICS_TOKEN_FILE, {tmp_path}/a-file)" in found["METRICS_TOKEN"]
    assert "(environment)" in found["OAUTH_ENCRYPTION_KEY"]
    assert "changeme" not in "".join(found.values())
