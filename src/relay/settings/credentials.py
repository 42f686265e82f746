"""Credentials that systemd, or whoever names a folder as it does, hands to this process.

systemd puts each credential of a unit (``LoadCredential=``, ``LoadCredentialEncrypted=``, ``SetCredential=``) as a
file into the folder that ``CREDENTIALS_DIRECTORY`` names; see systemd.exec(5), "Credentials". A secret's file is called
by its setting's name in lower case: ``secret_key`` for ``SECRET_KEY``. Files of other names belong to somebody else and
are left alone, but for one that is a setting's name in other letters: passing it over would start Relay without that
secret. A slip in a name (:mod:`~relay.settings.misspelt`) is told.
"""

import os
from pathlib import Path
from typing import Final

from relay.settings.misspelt import slip
from relay.settings.model import SECRETS

FOLDER: Final = "CREDENTIALS_DIRECTORY"


def credential_name(setting: str) -> str:
    """Return what the credential of a secret setting is called."""
    return setting.lower()


def credentials(folder: Path) -> tuple[dict[str, Path], list[str], list[str]]:
    """Return the credentials in a folder by the names of their settings, what is wrong with it, and slips in names.

    Reads none.
    """
    try:
        entries = os.listdir(folder)
    except OSError as error:
        return {}, [f"{FOLDER}: cannot list {folder}: {error.strerror or type(error).__name__}"], []
    found: dict[str, Path] = {}
    problems: list[str] = []
    slips: list[str] = []
    for entry in sorted(entries):
        if (name := entry.upper()) not in SECRETS:
            slips += [told] if (told := slip(entry, f"credential in {folder}")) else []
        elif entry == credential_name(name):
            found[name] = folder / entry
        else:
            problems.append(f"{name}: its credential must be called {credential_name(name)}, not {entry} ({folder})")
    return found, problems, slips
