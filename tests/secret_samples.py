"""A good value for every secret setting there is, also for those that are added later."""

import traceback
from collections.abc import Mapping
from pathlib import Path
from secrets import token_hex, token_urlsafe

from relay.settings import SettingsError, load_settings
from relay.settings.generate import MAKERS
from relay.settings.model import FIELDS, SECRETS
from relay.settings.secret_text import MadeElsewhere, PartlySecret, generate_kek, generate_webhook_secret

COMPANIONS = {
    "RELAY_ENV": "production",
    "SMTP_FROM": "relay@example.com",
    "WEBHOOK_SIGNING_SECRET_PREVIOUS_UNTIL": "2900-01-01",
}
"""What some secrets are not accepted without."""

ADDRESSES = frozenset(name for name in SECRETS if name.endswith("_URL"))
WHOLE = frozenset(
    name
    for name in SECRETS - ADDRESSES
    if not any(isinstance(mark, PartlySecret | MadeElsewhere) for mark in FIELDS[name].metadata)
)
"""The secrets whose whole text is secret, and Relay's to judge."""


def sample(name: str) -> str:
    """Return a value that Relay starts with; another one each time."""
    secret = token_urlsafe(18)
    forms = {
        "DATABASE_URL": f"postgresql://user-of-relay:{secret}@db.internal/relay",
        "REDIS_URL": f"redis://:{secret}@cache.internal:6379/0",
        "SMTP_URL": f"smtp://user-of-relay:{secret}@mail.internal:587",
    }
    made = [MAKERS[name]()] if name in MAKERS else []
    candidates = [*made, forms.get(name, ""), generate_kek(), generate_webhook_secret(), token_hex(32)]
    for value in [*filter(None, candidates), f"authorization=Bearer%20{secret}", f"https://hooks.internal/{secret}"]:
        try:
            load_settings({name: value, **COMPANIONS}, Path("/nowhere"))
        except SettingsError:
            continue
        return value
    raise AssertionError(f"no sample of {name} is accepted: add its form to {__file__}")


def held(settings: object, name: str) -> str | None:
    """Return the text of a secret in loaded settings."""
    value = getattr(settings, name.lower())
    return None if value is None else value.get_secret_value()


def refusal(environ: Mapping[str, str], cwd: Path, *hidden: str) -> tuple[str, ...]:
    """Return why these settings are refused, and make sure that nothing of the refusal holds what is ``hidden``."""
    try:
        load_settings(environ, cwd)
    except SettingsError as error:
        caught = error
    else:
        raise AssertionError("these settings were accepted")
    assert caught.__cause__ is None and caught.__context__ is None
    # The first frame is this function's own, which knows what is hidden.
    frames = [repr(frame.f_locals) for frame, _ in list(traceback.walk_tb(caught.__traceback__))[1:]]
    texts = [str(caught), repr(caught), repr(vars(caught)), *traceback.format_exception(caught), *frames]
    assert frames and [value for value in hidden if any(value in text for text in texts)] == []
    return caught.problems
