"""The files of an embedded installation's secrets: the current one under the plain name, the retired ones gone."""

from relay.rotation.identify import identify
from relay.rotation.keyring import Keyring
from relay.settings.key_folder import Held, SecretKind
from relay.settings.secret_text import decode_kek, decode_secret_key


async def tidy(keyring: Keyring, kind: SecretKind) -> None:
    """Bring the folder in line with what the database says. At every moment each secret that is needed has a file.

    To be called by whoever holds :meth:`~relay.settings.key_folder.KeyFolder.rotating`. What the database does not
    know is left alone: a rotation that was stopped goes on with it.
    """
    if not keyring.folder.embedded(kind):
        return
    await keyring.refresh()
    states = {row.id: row.state for row in keyring.rows if row.kind == kind}
    files = {path: _id(kind, text) for path, text in keyring.folder.texts(kind).items()}
    if not files:
        return
    plain = next(iter(files))
    current = next((path for path, id in files.items() if states.get(id) == "current"), None)
    if current is not None and current != plain:
        elsewhere = [path for path, id in files.items() if id == files[plain] and path != plain]
        needed = states.get(files[plain]) != "retired" and not elsewhere
        keyring.folder.settle(kind, current, needed)
    for path, id in files.items():
        if path not in (plain, current) and states.get(id) in ("retired", "current"):
            keyring.folder.remove(path)


def _id(kind: SecretKind, text: str) -> str:
    held = Held(
        encryption=(decode_kek(text),) if kind == "encryption" else (),
        signing=(decode_secret_key(text),) if kind == "signing" else (),
        webhook=(text,) if kind == "webhook" else (),
    )
    return identify(held)[0].id
