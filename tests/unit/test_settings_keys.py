"""The root keys: given, or made once and kept, whatever happens in between."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import relay
from relay.settings import Settings, SettingsError, load_settings
from relay.settings.keys import Keys, ensure_keys
from relay.settings.secret_text import decode_kek, generate_kek, generate_secret_key

KEY, KEK = generate_secret_key(), generate_kek()
GIVEN = {"SECRET_KEY": KEY, "OAUTH_ENCRYPTION_KEY": KEK}
POSTGRESQL = {"DATABASE_URL": "postgresql://u:pw@h/d"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def load(data: Path, **values: str) -> Settings:
    return load_settings({"RELAY_DATA_DIR": str(data), **values}, data.parent)


def test_they_are_made_once_and_kept(data: Path) -> None:
    first = ensure_keys(load(data), database_has_data=False)
    assert first.generated and len(first.kek) == 32 and len(first.secret_key) >= 32
    again = ensure_keys(load(data), database_has_data=True)
    assert again == Keys(first.secret_key, first.kek, generated=False)


def test_each_installation_has_its_own(tmp_path: Path) -> None:
    made = [ensure_keys(load(tmp_path / name), database_has_data=False) for name in ("a", "b")]
    assert len({keys.secret_key for keys in made} | {keys.kek for keys in made}) == 4


def test_nobody_else_can_read_them_and_nothing_is_left_over(data: Path) -> None:
    previous = os.umask(0)
    try:
        ensure_keys(load(data), database_has_data=False)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(data.stat().st_mode) == stat.S_IMODE((data / "keys").stat().st_mode) == 0o700
    files = sorted((data / "keys").iterdir())
    assert [path.name for path in files] == ["encryption_key", "secret_key"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {path.stat().st_nlink for path in files} == {1}


def test_the_files_hold_what_the_settings_take(data: Path) -> None:
    made = ensure_keys(load(data), database_has_data=False)
    moved = load(
        data,
        SECRET_KEY_FILE=str(data / "keys" / "secret_key"),
        OAUTH_ENCRYPTION_KEY_FILE=str(data / "keys" / "encryption_key"),
        **POSTGRESQL,
    )
    assert ensure_keys(moved, database_has_data=True) == Keys(made.secret_key, made.kek, generated=False)


def test_given_keys_are_used_and_none_is_written(data: Path) -> None:
    keys = ensure_keys(load(data, **GIVEN), database_has_data=False)
    assert keys == Keys(KEY.encode(), decode_kek(KEK), generated=False)
    assert not data.exists()


def test_one_given_and_one_made(data: Path) -> None:
    keys = ensure_keys(load(data, SECRET_KEY=KEY), database_has_data=False)
    assert keys.secret_key == KEY.encode() and keys.generated
    assert [path.name for path in (data / "keys").iterdir()] == ["encryption_key"]


@pytest.mark.parametrize(
    ("name", "setting"), [("secret_key", "SECRET_KEY"), ("encryption_key", "OAUTH_ENCRYPTION_KEY")]
)
def test_a_key_that_is_gone_while_there_is_data_is_not_made_anew(data: Path, name: str, setting: str) -> None:
    ensure_keys(load(data), database_has_data=False)
    (data / "keys" / name).unlink()
    with pytest.raises(SettingsError, match="restore the file from backup") as caught:
        ensure_keys(load(data), database_has_data=True)
    assert str(caught.value.problems[0]).startswith(f"{setting}: ")
    assert not (data / "keys" / name).exists()


def test_a_shared_database_needs_given_keys(data: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        ensure_keys(load(data, **POSTGRESQL), database_has_data=False)
    assert [line.partition(":")[0] for line in caught.value.problems] == ["SECRET_KEY", "OAUTH_ENCRYPTION_KEY"]
    with pytest.raises(SettingsError, match="OAUTH_ENCRYPTION_KEY"):
        ensure_keys(load(data, SECRET_KEY=KEY, **POSTGRESQL), database_has_data=False)
    assert not data.exists()
    assert not ensure_keys(load(data, **GIVEN, **POSTGRESQL), database_has_data=False).generated


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_an_exposed_key_is_refused(data: Path, mode: int) -> None:
    ensure_keys(load(data), database_has_data=False)
    (data / "keys" / "secret_key").chmod(mode)
    with pytest.raises(SettingsError, match="SECRET_KEY: others can"):
        ensure_keys(load(data), database_has_data=True)


def test_an_exposed_folder_is_refused(data: Path) -> None:
    ensure_keys(load(data), database_has_data=False)
    (data / "keys").chmod(0o770)
    with pytest.raises(SettingsError, match="others can write"):
        ensure_keys(load(data), database_has_data=True)


def test_a_dangling_link_is_not_taken_for_a_missing_key(data: Path) -> None:
    ensure_keys(load(data), database_has_data=False)
    (data / "keys" / "secret_key").unlink()
    (data / "keys" / "secret_key").symlink_to("gone")
    with pytest.raises(SettingsError, match="cannot read"):
        ensure_keys(load(data), database_has_data=False)


@pytest.mark.parametrize("function", ["open", "fsync", "link"])
def test_a_full_disk_leaves_no_half_key(data: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    (data / "keys").mkdir(parents=True, mode=0o700)
    data.chmod(0o700)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(SettingsError, match=r"cannot store a key.*No space left"):
            ensure_keys(load(data), database_has_data=False)
    assert list((data / "keys").iterdir()) == []
    assert ensure_keys(load(data), database_has_data=False).generated


def test_threads_that_start_together_get_the_same_keys(tmp_path: Path) -> None:
    for round_number in range(10):
        settings = load(tmp_path / str(round_number))
        barrier = threading.Barrier(8)
        found: list[Keys] = []

        def start(
            barrier: threading.Barrier = barrier, settings: Settings = settings, found: list[Keys] = found
        ) -> None:
            barrier.wait()
            found.append(ensure_keys(settings, database_has_data=False))

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and len({(keys.secret_key, keys.kek) for keys in found}) == 1
        assert sorted(path.name for path in (settings.data_dir / "keys").iterdir()) == ["encryption_key", "secret_key"]


def test_processes_that_start_together_get_the_same_keys(data: Path) -> None:
    program = (
        "import hashlib, sys\n"
        "from relay.settings import load_settings\n"
        "from relay.settings.keys import ensure_keys\n"
        "settings = load_settings()\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "keys = ensure_keys(settings, database_has_data=False)\n"
        "print(hashlib.sha256(keys.secret_key + keys.kek).hexdigest(), keys.generated)\n"
    )
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(relay.__file__).parents[1]),
        "RELAY_DATA_DIR": str(data),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=environ,
            cwd=data.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    answers = []
    try:
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=30)[0].split() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert len({answer[0] for answer in answers}) == 1
    assert "True" in {answer[1] for answer in answers}
