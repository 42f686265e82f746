"""Start-up refuses what would be unsafe: exposed secret files, development mode in the open, foreign folders."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from relay.settings import Settings, SettingsError, load_settings
from relay.settings.keys import ensure_data_dir
from relay.settings.safety import refusals, warnings
from relay.settings.secret_file import SecretFileError, read_secret_file, refuse_exposed
from relay.settings.secret_text import generate_secret_key

CWD = Path("/nowhere")
LOCAL = {"RELAY_ENV": "local", "DEV_AUTH_MODE": "true"}


def load(environ: dict[str, str]) -> Settings:
    return load_settings(environ, CWD)


def status(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 0, 1, owner, owner, 10, 0, 0, 0))


class TestSecretFiles:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o602, 0o610 | 0o020, 0o666, 0o777])
    def test_exposed_ones_are_refused_by_name_and_path(self, tmp_path: Path, mode: int) -> None:
        path = tmp_path / "key"
        value = generate_secret_key()
        path.write_text(value)
        path.chmod(mode)
        with pytest.raises(SettingsError) as caught:
            load({"SECRET_KEY_FILE": str(path)})
        (problem,) = caught.value.problems
        assert problem.startswith("SECRET_KEY_FILE: others can ") and f"chmod go-rwx {path}" in problem
        assert value not in problem
        path.chmod(0o400)
        assert load({"SECRET_KEY_FILE": str(path)}).secret_key is not None

    def test_another_users_is_refused(self, tmp_path: Path) -> None:
        refuse_exposed(tmp_path, status(0o600, os.geteuid()))
        with pytest.raises(SecretFileError, match="another user"):
            refuse_exposed(tmp_path, status(0o600, os.geteuid() + 4242))

    def test_roots_may_be_readable_by_the_group_of_a_service(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        refuse_exposed(tmp_path, status(0o640, 0))
        for mode in (0o644, 0o660):
            with pytest.raises(SecretFileError):
                refuse_exposed(tmp_path, status(mode, 0))
        with pytest.raises(SecretFileError):
            refuse_exposed(tmp_path, status(0o640, 4242))

    def test_memory_file_systems_may_be_readable_but_not_writable(self) -> None:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            path = Path(folder, "key")
            path.write_text("a secret")
            path.chmod(0o444)
            assert read_secret_file(path) == "a secret"
            path.chmod(0o664)
            with pytest.raises(SecretFileError, match="others can write"):
                read_secret_file(path)

    @pytest.mark.timeout(10)
    def test_what_is_no_file_is_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe", 0o600)
        (tmp_path / "loop").symlink_to("loop")
        for name in ("pipe", ".", "missing", "loop", "x" * 300):
            with pytest.raises(SecretFileError):
                read_secret_file(tmp_path / name)
        with pytest.raises(SecretFileError):
            read_secret_file(Path("/dev/null"))

    @pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 65_537, b"two\nlines", b"nul\x00"])
    def test_what_is_no_secret_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "key"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(SettingsError) as caught:
            load({"SECRET_KEY_FILE": str(path)})
        (problem,) = caught.value.problems
        assert problem.startswith("SECRET_KEY") and f"{path}" in problem and "two" not in problem

    def test_no_descriptor_stays_open(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text("a secret")
        before = len(os.listdir("/dev/fd"))
        for mode in (0o600, 0o666):
            path.chmod(mode)
            for candidate in (path, tmp_path):
                try:
                    read_secret_file(candidate)
                except SecretFileError:
                    continue
        assert len(os.listdir("/dev/fd")) == before


class TestDevelopmentMode:
    def test_is_accepted_under_all_conditions(self) -> None:
        assert refusals(load(LOCAL)) == []
        assert refusals(load({**LOCAL, "RELAY_PUBLIC_URL": "http://localhost:8000", "RELAY_HOST": "::1"})) == []
        assert any("DEV_AUTH_MODE" in line for line in warnings(load(LOCAL)))

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"RELAY_ENV": "production"}, "RELAY_ENV must be local"),
            ({"RELAY_ENV": ""}, "RELAY_ENV must be local"),
            ({"RELAY_ENV": "test"}, "RELAY_ENV must be local"),
            ({"RELAY_HOST": "0.0.0.0"}, "RELAY_HOST must be a loopback address"),
            ({"RELAY_HOST": "::"}, "RELAY_HOST must be a loopback address"),
            ({"RELAY_HOST": "192.0.2.1"}, "RELAY_HOST must be a loopback address"),
            ({"TRUSTED_PROXIES": "127.0.0.1"}, "TRUSTED_PROXIES must not be set"),
            ({"RELAY_PUBLIC_URL": "https://relay.example.com"}, "RELAY_PUBLIC_URL must not"),
            ({"RELAY_PUBLIC_URL": "https://localhost.example.com"}, "RELAY_PUBLIC_URL must not"),
        ],
    )
    def test_is_refused_when_any_is_missing(self, change: dict[str, str], says: str) -> None:
        (reason,) = refusals(load({**LOCAL, **change}))
        assert reason.startswith("DEV_AUTH_MODE=true ") and says in reason

    def test_missing_keys_of_a_shared_database_are_told_as_well(self) -> None:
        shared = {"DATABASE_URL": "postgresql://db.example.com/relay"}
        assert [line.split(":")[0] for line in refusals(load(shared))] == ["SECRET_KEY", "OAUTH_ENCRYPTION_KEY"]
        assert len(refusals(load({**shared, "DEV_AUTH_MODE": "true", "RELAY_ENV": "test"}))) == 3

    def test_every_reason_is_told(self) -> None:
        unsafe = {"RELAY_HOST": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.0/8", "RELAY_PUBLIC_URL": "https://a.example"}
        assert len(refusals(load({"DEV_AUTH_MODE": "true", **unsafe}))) == 4

    def test_without_it_nothing_of_this_is_refused(self) -> None:
        assert refusals(load({"RELAY_HOST": "0.0.0.0", "TRUSTED_PROXIES": "10.0.0.0/8"})) == []


class TestWarnings:
    def test_an_open_bind_without_public_url(self) -> None:
        assert any("RELAY_PUBLIC_URL is not set" in line for line in warnings(load({"RELAY_HOST": "0.0.0.0"})))
        proper = {
            "RELAY_HOST": "0.0.0.0",
            "RELAY_PUBLIC_URL": "https://relay.example.com",
            "TRUSTED_PROXIES": "10.0.0.1",
        }
        assert warnings(load(proper)) == [] == warnings(load({}))

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("OPENAI_BASE_URL", "http://127.0.0.1:11434/v1"),
            ("ANTHROPIC_API_KEY", "sk-given-1"),
            ("ANTHROPIC_BASE_URL", "https://models.example.com"),
            ("GOOGLE_API_KEY", "given-2"),
            ("GOOGLE_BASE_URL", "https://models.example.com"),
        ],
    )
    def test_a_models_place_or_key_without_a_model(self, name: str, value: str) -> None:
        (found,) = [line for line in warnings(load({name: value})) if line.startswith("AI_MODEL")]
        assert "no model is asked until it names one" in found and name in found and value not in found
        for model in ({"AI_MODEL": "m"}, {"OPENAI_API_KEY": "sk-given-3"}):
            assert not [line for line in warnings(load({name: value, **model})) if "no model is asked" in line]

    def test_https_that_nobody_can_attest(self) -> None:
        found = warnings(load({"RELAY_PUBLIC_URL": "https://relay.example.com"}))
        assert any("TRUSTED_PROXIES is not set" in line for line in found)

    def test_a_public_url_in_the_clear(self) -> None:
        assert any("in the clear" in line for line in warnings(load({"RELAY_PUBLIC_URL": "http://relay.example.com"})))
        assert warnings(load({"RELAY_PUBLIC_URL": "http://127.0.0.1:8000"})) == []


class TestDataFolder:
    def test_a_new_one_is_private(self, tmp_path: Path) -> None:
        ensure_data_dir(tmp_path / "a" / "b")
        assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700

    def test_an_empty_one_is_made_private_and_a_used_one_left_alone(self, tmp_path: Path) -> None:
        for name, content in (("empty", False), ("used", True)):
            (tmp_path / name).mkdir(mode=0o755)
            (tmp_path / name).chmod(0o755)
            if content:
                (tmp_path / name / "file").touch()
            ensure_data_dir(tmp_path / name)
        assert stat.S_IMODE((tmp_path / "empty").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "used").stat().st_mode) == 0o755

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
    def test_one_that_others_can_write_is_refused(self, tmp_path: Path, mode: int) -> None:
        tmp_path.chmod(mode)
        with pytest.raises(SettingsError, match="others can write"):
            ensure_data_dir(tmp_path)

    def test_another_users_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 4242)
        with pytest.raises(SettingsError, match="another user"):
            ensure_data_dir(tmp_path)

    def test_what_is_no_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for path in (tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(SettingsError, match="RELAY_DATA_DIR: cannot use"):
                ensure_data_dir(path)
