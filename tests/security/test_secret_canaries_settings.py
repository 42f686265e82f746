"""No value of a secret reaches an error, a traceback (local variables included), a repr or a dump."""

import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

import relay
from relay.settings import SettingsError, load_settings
from relay.settings.keys import Keys, ensure_keys
from relay.settings.secret_text import generate_kek, generate_secret_key

CANARY = "Zk7canary9Qw"
REFUSED = [
    {"SECRET_KEY": CANARY},
    {"SECRET_KEY": CANARY * 4},
    {"SECRET_KEY": "YOUR_" + CANARY * 4},
    {"SECRET_KEY": CANARY + "\n"},
    {"SECRET_KEY": CANARY + "\udcff"},
    {"OAUTH_ENCRYPTION_KEY": CANARY},
    {"OAUTH_ENCRYPTION_KEY": CANARY * 4},
    {"DATABASE_URL": f"mysql://u:{CANARY}@h/d"},
    {"DATABASE_URL": f"postgresql://u:p@h:{CANARY}/d"},
    {"DATABASE_URL": f"postgresql://u:{CANARY}/x@h/d"},
    {"DATABASE_URL": f"postgresql://[{CANARY}]/d"},
    {"DATABASE_URL": f"sqlite:///{CANARY}?x"},
    {"REDIS_URL": f"http://:{CANARY}@h"},
    {"SMTP_URL": f"smtp://u:{CANARY}@h:port"},
    {"SMTP_URL": f"smtp://u:{CANARY}@mail.example:587"},
    {"SECRET_KEY": CANARY, "SECRET_KEY_FILE": "/nowhere"},
    {"RELAY_SECRET_KEY": CANARY},
    {"RELAY_PORT": CANARY},
    {"DEV_AUTH_MODE": CANARY},
    {"RELAY_PUBLIC_URL": f"https://u:{CANARY}@h"},
]


@pytest.mark.parametrize("environ", REFUSED)
def test_a_refusal_carries_no_value(environ: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, tmp_path)
    error = caught.value
    assert error.__cause__ is None and error.__context__ is None
    # The first frame is this test's own, which knows the canary.
    frames = list(traceback.walk_tb(error.__traceback__))[1:]
    held = [repr(frame.f_locals) for frame, _ in frames]
    for text in (str(error), repr(error), repr(vars(error)), "".join(traceback.format_exception(error)), *held):
        assert CANARY not in text


@pytest.mark.parametrize("environ", REFUSED[:2] + REFUSED[7:9])
def test_a_process_that_prints_every_local_variable_shows_none(environ: dict[str, str], tmp_path: Path) -> None:
    program = (
        "import rich.traceback; rich.traceback.install(show_locals=True, width=400, locals_max_string=None)\n"
        "from relay.settings import load_settings\n"
        "load_settings()\n"
    )
    source = str(Path(relay.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": source, "HOME": str(tmp_path), **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1 and "SettingsError" in run.stderr and "locals" in run.stderr
    assert CANARY not in run.stderr + run.stdout


def test_loaded_settings_show_no_secret(tmp_path: Path) -> None:
    key, kek = generate_secret_key(), generate_kek()
    environ = {
        "SECRET_KEY": key,
        "OAUTH_ENCRYPTION_KEY": kek,
        "DATABASE_URL": f"postgresql://u:{CANARY}@h/d",
        "REDIS_URL": f"redis://:{CANARY}@h",
        "SMTP_URL": f"smtp://u:{CANARY}@h",
        "SMTP_FROM": "relay@example.com",
    }
    settings = load_settings(environ, tmp_path)
    keys = ensure_keys(settings, database_has_data=True)
    shown = [repr(settings), str(settings), repr(settings.model_dump()), settings.model_dump_json(), repr(keys)]
    for text in [*shown, *settings.warnings]:
        assert CANARY not in text and key not in text and kek not in text
    assert keys == Keys(secret_key=key.encode(), kek=keys.kek, generated=False)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_broken_key_file_is_not_shown(tmp_path: Path) -> None:
    settings = load_settings({"RELAY_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    ensure_keys(settings, database_has_data=False)
    for name in ("secret_key", "encryption_key"):
        path = tmp_path / "data" / "keys" / name
        good = path.read_text()
        path.write_text(CANARY)
        with pytest.raises(SettingsError) as caught:
            ensure_keys(settings, database_has_data=False)
        assert str(path) in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__context__ is None
        held = [repr(frame.f_locals) for frame, _ in list(traceback.walk_tb(caught.value.__traceback__))[1:]]
        assert CANARY not in "".join([str(caught.value), *held])
        path.write_text(good)
