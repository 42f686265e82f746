"""Which secret is which: ids and check values that reveal nothing, by the kind of secret."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from relay.crypto.envelope import kek_id
from relay.crypto.keys import check_value, text_check_value
from relay.settings.key_folder import FILES, Held, SecretKind

KINDS: Final[tuple[SecretKind, ...]] = tuple(FILES)


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret that this process holds. ``value`` is the key's bytes, or a webhook secret's text."""

    kind: SecretKind
    id: str
    check_value: str
    value: bytes | str = field(repr=False)

    @property
    def name(self) -> str:
        """How processes say that they hold it."""
        return f"{self.kind}:{self.id}"


def identify(held: Held) -> list[Secret]:
    """Return every secret that a process holds with its id, the configured one of each kind first."""
    return [
        *(Secret("encryption", kek_id(key), check_value(key), key) for key in held.encryption),
        *(Secret("signing", check_value(key)[:8], check_value(key), key) for key in held.signing),
        *(webhook_secret(text) for text in held.webhook),
    ]


@lru_cache(maxsize=32)
def webhook_secret(text: str) -> Secret:
    """Return a secret of webhooks with its id."""
    check = text_check_value(text)  # whatever somebody made up is no easier to guess from this
    return Secret("webhook", check[:8], check, text)
