"""The secrets that an installation holds beside the ones it works with, and the files of those that it makes itself.

``keys/encryption_key`` is the key-encryption key of an embedded installation, ``keys/encryption_key.NAME`` another one
that it holds while one follows the other; likewise ``secret_key`` and ``webhook_signing_secret``. Which is which, the
database says.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from pydantic import SecretStr

from relay.settings.errors import SettingsError
from relay.settings.keys import Keys, ensure_data_dir, find_webhook_secret, make_key_file, read_key_file, sync_folder
from relay.settings.model import Settings
from relay.settings.secret_text import decode_kek, decode_secret_key

SecretKind = Literal["encryption", "signing", "webhook"]

FILES: Final[dict[SecretKind, str]] = {
    "encryption": "encryption_key",
    "signing": "secret_key",
    "webhook": "webhook_signing_secret",
}
SETTINGS: Final[dict[SecretKind, str]] = {
    "encryption": "OAUTH_ENCRYPTION_KEY",
    "signing": "SECRET_KEY",
    "webhook": "WEBHOOK_SIGNING_SECRET",
}


@dataclass(frozen=True, slots=True)
class Held:
    """Every secret of a process, the configured one first."""

    encryption: tuple[bytes, ...] = field(repr=False)
    signing: tuple[bytes, ...] = field(repr=False)
    webhook: tuple[str, ...] = field(repr=False)


class KeyFolder:
    """The secrets of one installation: what the settings give, and what lies in its folder where they do not."""

    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys
        self._folder = settings.data_dir / "keys"
        given = {
            "encryption": settings.oauth_encryption_key,
            "signing": settings.secret_key,
            "webhook": settings.webhook_signing_secret,
        }
        self._given = {kind for kind, value in given.items() if value is not None}

    def embedded(self, kind: SecretKind) -> bool:
        """Say whether Relay keeps this secret itself, and so can make the next."""
        return not self._settings.shared_database and kind not in self._given

    @property
    def webhook_previous_end(self) -> int | None:
        """When the previous webhook secret of the settings ends, in microseconds."""
        return self._settings.webhook_previous_end

    def held(self) -> Held:
        """Read every secret anew; :class:`SettingsError` for a file that must not be read."""
        settings = self._settings
        encryption = [decode_kek(text) for text in self.texts("encryption").values()] or [self._keys.kek]
        signing = [decode_secret_key(text) for text in self.texts("signing").values()] or [self._keys.secret_key]
        encryption += map(decode_kek, _listed(settings.oauth_encryption_key_previous))
        if settings.secret_key_previous is not None:
            signing.append(decode_secret_key(settings.secret_key_previous.get_secret_value()))
        webhook = list(self.texts("webhook").values())
        if not webhook and (given := find_webhook_secret(settings)) is not None:
            webhook.append(given.get_secret_value())
        if settings.webhook_signing_secret_previous is not None:
            webhook.append(settings.webhook_signing_secret_previous.get_secret_value())
        return Held(tuple(dict.fromkeys(encryption)), tuple(dict.fromkeys(signing)), tuple(dict.fromkeys(webhook)))

    @contextmanager
    def rotating(self) -> Iterator[bool]:
        """Keep other processes from making and removing secrets here; False where one does already."""
        ensure_data_dir(self._settings.data_dir)
        path = self._settings.data_dir / ".rotation-lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def mark(self, process_id: str) -> Callable[[], None]:
        """Show the processes beside this one, which use the same folder, that this one lives; return what ends that.

        The mark goes with the process, however it ends. With a shared database there is none: a folder says nothing of
        processes on other machines.
        """
        if self._settings.shared_database:
            return lambda: None
        folder = self._settings.data_dir / ".processes"
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.glob("prc_*"):
            self.is_gone(path.name)
        draft, path = folder / f".{process_id}", folder / process_id
        descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        # It is locked before it goes by its name: nobody may find it unlocked and take this process for gone.
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        draft.rename(path)

        def end() -> None:
            path.unlink(missing_ok=True)
            os.close(descriptor)

        return end

    def is_gone(self, process_id: str) -> bool:
        """Say whether a process that uses this folder is known to have ended."""
        if self._settings.shared_database:
            return False
        path = self._settings.data_dir / ".processes" / process_id
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        else:
            path.unlink(missing_ok=True)
            return True
        finally:
            os.close(descriptor)

    def make(self, kind: SecretKind) -> None:
        """Make another secret beside the one in use; it is on the disk, whole, when this returns."""
        path = self._folder / f"{FILES[kind]}.{os.urandom(4).hex()}"
        make_key_file(kind, path)

    def texts(self, kind: SecretKind) -> dict[Path, str]:
        """Return the secrets of this kind in the folder by their files, the one of the plain name first."""
        base = self._folder / FILES[kind]
        found = {base: read_key_file(kind, base)} if self.embedded(kind) and os.path.lexists(base) else {}
        return found | self._files(kind)

    def settle(self, kind: SecretKind, current: Path, needed: bool) -> None:
        """Let ``current`` be the file that goes by the plain name, in one step.

        With ``needed`` the one that did so keeps a name of its own.
        """
        base = self._folder / FILES[kind]
        if current == base:
            return
        if needed:
            os.link(base, base.with_name(f"{base.name}.{os.urandom(4).hex()}"))
            sync_folder(self._folder)
        os.replace(current, base)
        sync_folder(self._folder)

    def remove(self, path: Path) -> None:
        """Remove a secret that nothing needs any more."""
        path.unlink(missing_ok=True)
        sync_folder(self._folder)

    def _files(self, kind: SecretKind) -> dict[Path, str]:
        if not self.embedded(kind) or not self._folder.is_dir():
            return {}
        found: dict[Path, str] = {}
        for path in sorted(self._folder.glob(f"{FILES[kind]}.*")):
            try:
                found[path] = read_key_file(kind, path)
            except SettingsError:
                # It may have been given the plain name, or removed, since it was listed.
                if os.path.lexists(path):
                    raise
        return found


def _listed(secret: SecretStr | None) -> list[str]:
    return secret.get_secret_value().split(",") if secret is not None else []
