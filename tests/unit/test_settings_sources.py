"""Sources and their order: options, files, environment, .env; and what each refuses."""

import os
from pathlib import Path
from typing import Final

import pytest

from relay.settings import SettingsError, load_settings
from relay.settings.secret_text import generate_kek, generate_secret_key

KEY, FILE_KEY, KEK = generate_secret_key(), generate_secret_key(), generate_kek()


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def secret_of(environ: dict[str, str], cwd: Path) -> str | None:
    value = load_settings(environ, cwd).secret_key
    return None if value is None else value.get_secret_value()


def problems(environ: dict[str, str], cwd: Path) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, cwd)
    return caught.value.problems


class TestOrder:
    def test_options_come_before_the_environment(self, tmp_path: Path) -> None:
        settings = load_settings({"RELAY_PORT": "1"}, tmp_path, overrides={"RELAY_PORT": "2", "RELAY_HOST": ""})
        assert (settings.port, settings.host) == (2, "127.0.0.1")

    def test_the_process_environment_is_the_default(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in [name for name in os.environ if name.startswith("RELAY_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("RELAY_PORT", "1234")
        monkeypatch.chdir(tmp_path)
        assert load_settings().port == 1234

    def test_the_environment_comes_before_dotenv(self, tmp_path: Path) -> None:
        write(tmp_path / ".env", "RELAY_PORT=1\nLOG_LEVEL=debug\n")
        settings = load_settings({"RELAY_ENV": "local", "RELAY_PORT": "2"}, tmp_path)
        assert (settings.port, settings.log_level) == (2, "debug")

    def test_a_secret_given_twice_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "key", FILE_KEY)
        both = {"SECRET_KEY": KEY, "SECRET_KEY_FILE": path}
        places = f"in the environment (SECRET_KEY) and by SECRET_KEY_FILE, {path}"
        assert problems(both, tmp_path) == (f"SECRET_KEY: is given twice, {places}; leave one of them",)
        write(tmp_path / ".env", f"SECRET_KEY={KEY}\n")
        assert problems({"RELAY_ENV": "local", "SECRET_KEY_FILE": path}, tmp_path)
        assert secret_of({"SECRET_KEY": "", "SECRET_KEY_FILE": path}, tmp_path) == FILE_KEY
        assert secret_of({"SECRET_KEY": KEY, "SECRET_KEY_FILE": ""}, tmp_path) == KEY


class TestDotenv:
    TEXT = f"# comment\nexport RELAY_PORT=4321\nSECRET_KEY='{KEY}'\nOTHER_TOOL=1\nSMTP_FROM=\"a ${{HOME}} <a@b>\"\n"

    def test_is_read_in_local(self, tmp_path: Path) -> None:
        write(tmp_path / ".env", self.TEXT)
        settings = load_settings({"RELAY_ENV": "local"}, tmp_path)
        assert settings.port == 4321 and settings.smtp_from == "a ${HOME} <a@b>"
        assert settings.secret_key is not None and settings.secret_key.get_secret_value() == KEY

    @pytest.mark.parametrize("environ", [{}, {"RELAY_ENV": "production"}, {"RELAY_ENV": "test"}])
    def test_is_not_read_elsewhere_and_cannot_ask_for_it(self, tmp_path: Path, environ: dict[str, str]) -> None:
        write(tmp_path / ".env", self.TEXT + "RELAY_ENV=local\nDEV_AUTH_MODE=true\n")
        settings = load_settings(environ, tmp_path)
        assert settings.env == environ.get("RELAY_ENV", "production")
        assert settings.port == 8000 and not settings.dev_auth_mode and settings.secret_key is None
        assert any(".env is not read" in warning for warning in settings.warnings)

    def test_may_repeat_local_and_nothing_else(self, tmp_path: Path) -> None:
        write(tmp_path / ".env", "RELAY_ENV=local\n")
        assert load_settings({"RELAY_ENV": "local"}, tmp_path).env == "local"
        write(tmp_path / ".env", "RELAY_ENV=production\n")
        assert problems({"RELAY_ENV": "local"}, tmp_path)[0].startswith("RELAY_ENV: ")

    def test_unknown_names_and_broken_lines_are_refused(self, tmp_path: Path) -> None:
        write(tmp_path / ".env", "RELAY_PROT=1\nthis is no setting\nSECRET KEY=x\n")
        found = problems({"RELAY_ENV": "local"}, tmp_path)
        assert any("line 2" in line for line in found) and any("line 3" in line for line in found)
        assert any("did you mean RELAY_PORT" in line for line in found)

    @pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
    def test_one_that_others_can_write_is_refused(self, tmp_path: Path, mode: int) -> None:
        write(tmp_path / ".env", self.TEXT, mode)
        assert "others can write" in problems({"RELAY_ENV": "local"}, tmp_path)[0]

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / ".env").write_bytes(b"LOG_LEVEL=\xff")
        assert "UTF-8" in problems({"RELAY_ENV": "local"}, tmp_path)[0]


class TestUnknownNames:
    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("RELAY_DATADIR", "did you mean RELAY_DATA_DIR?"),
            ("relay_env", "did you mean RELAY_ENV?"),
            ("RELAY_PUBLIC_URL_FILE", "did you mean RELAY_PUBLIC_URL?"),
            ("RELAY_SERVICE_HOST", "enableServiceLinks"),
            ("RELAY_PORT_8000_TCP_ADDR", "enableServiceLinks"),
            ("RELAY_", "there is no such setting"),
        ],
    )
    def test_are_refused_with_a_hint(self, tmp_path: Path, name: str, hint: str) -> None:
        (problem,) = problems({name: "some-value"}, tmp_path)
        assert problem.startswith(f"{name}: ") and hint in problem and "some-value" not in problem

    def test_a_name_that_is_not_close_to_any_gets_no_hint(self, tmp_path: Path) -> None:
        (problem,) = problems({"RELAY_FRONT": "x"}, tmp_path)
        assert "did you mean" not in problem

    def test_of_other_programs_are_left_alone(self, tmp_path: Path) -> None:
        assert load_settings({"PATH": "/bin", "RELAYER": "1", "warnings": "x"}, tmp_path).warnings == ()


class TestWarning:
    ENVIRON: Final = {"SECRET_KEY": KEY, "DATABASE_URL": "postgresql://u:pw@h/d", "REDIS_URL": "redis://h"}

    def test_names_secrets_in_the_environment_once(self, tmp_path: Path) -> None:
        (line,) = load_settings(self.ENVIRON, tmp_path).warnings
        assert "DATABASE_URL, SECRET_KEY;" in line and "REDIS_URL" not in line and "\n" not in line
        assert KEY not in line and "pw" not in line

    @pytest.mark.parametrize("more", [{"SECRETS_FROM_ENVIRONMENT": "accepted"}, {"RELAY_ENV": "local"}])
    def test_is_silent_where_it_is_accepted(self, tmp_path: Path, more: dict[str, str]) -> None:
        assert load_settings({**self.ENVIRON, **more}, tmp_path).warnings == ()

    def test_is_silent_about_files(self, tmp_path: Path) -> None:
        path = write(tmp_path / "key", KEY)
        assert load_settings({"SECRET_KEY_FILE": path}, tmp_path).warnings == ()


def test_files_are_found_from_the_current_folder_and_lose_one_line_break(tmp_path: Path) -> None:
    for text in (KEY, KEY + "\n", KEY + "\r\n"):
        write(tmp_path / "key", text)
        assert secret_of({"SECRET_KEY_FILE": "key"}, tmp_path) == KEY
    (tmp_path / "link").symlink_to("key")
    assert secret_of({"SECRET_KEY_FILE": "link"}, tmp_path) == KEY
    kek = write(tmp_path / "kek", KEK)
    settings = load_settings({"OAUTH_ENCRYPTION_KEY_FILE": kek}, tmp_path)
    assert settings.oauth_encryption_key is not None and settings.oauth_encryption_key.get_secret_value() == KEK
