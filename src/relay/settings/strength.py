"""What no secret may be, whichever setting it is for: an example, a word that everybody tries, too regular a text.

Every setting that is a ``SecretStr`` passes through here, beside what its own parser demands. A secret of Relay's or of
a provider is made by a machine, so it must look like that. A password within an address was chosen where the database,
the Redis server or the mail relay is kept, whose rules Relay does not know: it is refused when it is an example's word,
and in production also when it is the user's name or one that scanners try first. Its length is not judged.
"""

import re
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from relay.settings.secret_text import is_example, is_placeholder, is_regular

_EXAMPLES: Final = frozenset("example pass passphrase passwd password pwd sample secret token".split())
_TRIED_FIRST: Final = frozenset(
    "123456 12345678 1234567890 admin administrator changeit default demo guest letmein mysecretpassword p@ssw0rd "
    "password1 password123 postgres postgresql qwerty redis relay root secret123 test toor".split()
)
_MASKED: Final = re.compile(r"<.*>|\$?\{.*\}|%s|[xX*•]+", re.DOTALL)


def weakness(text: str, *, production: bool, whole: bool = True) -> str | None:
    """Return why ``text`` is no secret, as a sentence that follows its setting's name; None when it may be one.

    An address (``scheme://…``) is judged by the passwords that it carries, any other text as a whole; without ``whole``
    only whether it is an example.
    """
    if "://" not in text:
        if is_placeholder(text) or is_example(text):
            return "is a placeholder; give a real one"
        regular = whole and is_regular(text)
        return "is too short or too regular to be a secret; give a random one" if regular else None
    user, passwords = _credentials(text)
    if is_placeholder(text) or any(_is_example_password(password) for password in passwords):
        return "has an example's password; give the real one"
    if production and any(password.lower() in {user.lower(), *_TRIED_FIRST} for password in passwords):
        return "has a password that everybody tries first; choose a random one"
    return None


def has_password(text: str) -> bool:
    """Tell whether an address carries a password, in its authority or its query."""
    return bool(_credentials(text)[1])


def _is_example_password(password: str) -> bool:
    return password.lower() in _EXAMPLES or bool(_MASKED.fullmatch(password)) or is_example(password)


def _credentials(url: str) -> tuple[str, list[str]]:
    # urlsplit's own errors quote what they could not read; what it cannot read is refused elsewhere.
    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
    except ValueError:
        return "", []
    user = unquote(parts.username or "") or "".join(query.get("user", [])[:1])
    found = [unquote(parts.password or ""), *query.get("password", [])]
    return user, [password for password in found if password]
