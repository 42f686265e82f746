"""The two root keys and the secret of ``/webhooks/relay``: given by settings, or made once into the data folder."""

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from relay.settings.errors import SettingsError
from relay.settings.model import Settings
from relay.settings.secret_file import SecretFileError, read_secret_file
from relay.settings.secret_text import (
    decode_kek,
    decode_secret_key,
    decode_webhook_secret,
    generate_kek,
    generate_secret_key,
    generate_webhook_secret,
)


@dataclass(frozen=True, slots=True)
class Keys:
    """``secret_key`` is the root of signing keys, ``kek`` the 32 bytes that seal what is stored secret.

    ``generated`` tells whether this call made at least one of them.
    """

    secret_key: bytes = field(repr=False)
    kek: bytes = field(repr=False)
    generated: bool


@dataclass(frozen=True, slots=True)
class _Kind:
    setting: str
    file: str
    make: Callable[[], str]
    decode: Callable[[str], bytes]


_SECRET_KEY: Final = _Kind("SECRET_KEY", "secret_key", generate_secret_key, decode_secret_key)
_KEK: Final = _Kind("OAUTH_ENCRYPTION_KEY", "encryption_key", generate_kek, decode_kek)
_WEBHOOKS: Final = _Kind(
    "WEBHOOK_SIGNING_SECRET", "webhook_signing_secret", generate_webhook_secret, decode_webhook_secret
)

_BY_KIND: Final = {"encryption": _KEK, "signing": _SECRET_KEY, "webhook": _WEBHOOKS}


def ensure_data_dir(path: Path) -> None:
    """Make sure that the data folder exists, is ours, and cannot be written by others.

    A new or empty folder gets mode 0700. :class:`SettingsError` for one that another user owns or others may write.
    """
    _ensure_private(path, "RELAY_DATA_DIR")


def ensure_keys(settings: Settings, *, database_has_data: bool) -> Keys:
    """Return the root keys of this installation.

    With PostgreSQL both must be given by settings. With SQLite a given one is used; the others are read from
    ``keys/`` in the data folder (0600 in 0700) and made there when missing, unless the database has data already:
    new keys could not read it, so that is refused. Whatever number of processes start at once, all get the same
    keys, and a crash at any moment leaves a whole key or none. :class:`SettingsError` for every refusal.
    """
    given = {_SECRET_KEY: settings.secret_key, _KEK: settings.oauth_encryption_key}
    if problems := missing_keys(settings):
        raise SettingsError(problems)
    made: list[bool] = []
    found = [_key(kind, value, settings, database_has_data, made) for kind, value in given.items()]
    return Keys(secret_key=found[0], kek=found[1], generated=any(made))


def ensure_webhook_secret(settings: Settings) -> SecretStr | None:
    """Return the text of the secret of ``/webhooks/relay``; None with PostgreSQL when none is given.

    With SQLite one is made beside the root keys, as they are. Nothing is sealed with it, so that a new one in place of
    one that is gone costs no data: senders must be given it. :class:`SettingsError` as :func:`ensure_keys`.
    """
    if settings.webhook_signing_secret is None and settings.shared_database:
        return None
    if (found := find_webhook_secret(settings)) is not None:
        return found
    ensure_data_dir(settings.data_dir)
    path = _webhook_file(settings)
    _ensure_private(path.parent, "RELAY_DATA_DIR")
    _create(path, _WEBHOOKS.make())
    return SecretStr(_text(_WEBHOOKS, path))


def find_webhook_secret(settings: Settings) -> SecretStr | None:
    """Return that secret where there is one, and make none. :class:`SettingsError` for a file that must not be read."""
    if settings.webhook_signing_secret is not None:
        return settings.webhook_signing_secret
    path = _webhook_file(settings)
    if settings.shared_database or not _exists(path):
        return None
    return SecretStr(_text(_WEBHOOKS, path))


def _webhook_file(settings: Settings) -> Path:
    return settings.data_dir / "keys" / _WEBHOOKS.file


def missing_keys(settings: Settings) -> list[str]:
    """Return a sentence for each root key that a shared database needs and the settings lack."""
    if not settings.shared_database:
        return []
    given = {_SECRET_KEY: settings.secret_key, _KEK: settings.oauth_encryption_key}
    return [_must_be_given(kind.setting) for kind, value in given.items() if value is None]


def make_key_file(kind: str, path: Path) -> None:
    """Make a new secret of a kind (encryption, signing, webhook) in a file that nothing stands in yet."""
    if not _create(path, _BY_KIND[kind].make()):
        raise SettingsError([f"RELAY_DATA_DIR: {path} is there already"])


def read_key_file(kind: str, path: Path) -> str:
    """Return the text of a secret that Relay keeps itself; :class:`SettingsError` for one that must not be read."""
    return _text(_BY_KIND[kind], path)


def _must_be_given(name: str) -> str:
    return (
        f"{name}: must be set with a PostgreSQL DATABASE_URL, the same for every process that uses the database; "
        "`relay secrets generate` makes one"
    )


def _key(kind: _Kind, given: SecretStr | None, settings: Settings, has_data: bool, made: list[bool]) -> bytes:
    if given is not None:
        return kind.decode(given.get_secret_value())
    ensure_data_dir(settings.data_dir)
    folder = settings.data_dir / "keys"
    _ensure_private(folder, "RELAY_DATA_DIR")
    path = folder / kind.file
    if not _exists(path):
        if has_data:
            raise SettingsError(
                [
                    f"{kind.setting}: {path} is missing but the database has data that only the old key opens; "
                    f"restore the file from backup, or set {kind.setting}"
                ]
            )
        made.append(_create(path, kind.make()))
    return _read(kind, path)


def _exists(path: Path) -> bool:
    # A dangling link is there, too: to be refused when it is read, not to be replaced by a new key.
    return os.path.lexists(path)


def _read(kind: _Kind, path: Path) -> bytes:
    return kind.decode(_text(kind, path))


def _text(kind: _Kind, path: Path) -> str:
    try:
        return _decodable(kind, read_secret_file(path))
    except (SecretFileError, ValueError) as error:
        reason = str(error) if isinstance(error, SecretFileError) else f"{path} {error}"
    raise SettingsError([f"{kind.setting}: {reason}"])


def _decodable(kind: _Kind, text: str) -> str:
    # In a frame of its own, so that none that an error is raised from holds the text.
    kind.decode(text)
    return text


def _create(path: Path, text: str) -> bool:
    """Make a key file that appears whole or not at all; False when another process was first."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_new(draft, text + "\n")
        made = _claim(draft, path)
        draft.unlink()
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or type(error).__name__
    else:
        return made
    with suppress(OSError):
        draft.unlink()
    raise SettingsError([f"RELAY_DATA_DIR: cannot store a key at {path}: {reason}"])


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _claim(draft: Path, path: Path) -> bool:
    # A link, unlike a rename, fails when the name is taken: the first process wins and all others read its key.
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    return True


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ensure_private(path: Path, setting: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        problem = _unsafe(path, status)
        if problem is None and stat.S_IMODE(status.st_mode) & 0o077 and not any(path.iterdir()):
            path.chmod(0o700)
    except OSError as error:
        problem = f"cannot use {path}: {error.strerror or type(error).__name__}"
    if problem is not None:
        raise SettingsError([f"{setting}: {problem}"])


def _unsafe(path: Path, status: os.stat_result) -> str | None:
    if status.st_uid != os.geteuid():
        return f"{path} belongs to another user; choose a folder of your own"
    if stat.S_IMODE(status.st_mode) & 0o022:
        return f"others can write {path}; run: chmod go-rwx {path}"
    return None
