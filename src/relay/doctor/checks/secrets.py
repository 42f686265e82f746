"""Where secrets come from, how old they are and whether they can be guessed."""

from typing import Final

from pydantic import SecretStr

from relay.core.clock import DAY
from relay.doctor.check import some
from relay.doctor.facts import Facts
from relay.doctor.links import URLS, weakness
from relay.settings.model import SECRETS
from relay.settings.secret_text import WEBHOOK_PREFIX

_IN_ENVIRONMENT: Final = "secrets in the process environment"


def source(facts: Facts) -> str | None:
    """In production secrets are files or credentials, unless the platform manages the environment."""
    return next((sentence for sentence in facts.settings.warnings if sentence.startswith(_IN_ENVIRONMENT)), None)


def age(facts: Facts) -> str | None:
    """No secret is older than its period."""
    period = facts.settings.secret_period_days
    old = [
        f"{use.name} ({(facts.at - use.since) // DAY} days)"
        for use in facts.store.secrets
        if facts.at - use.since > period * DAY
    ]
    return f"in use for more than {period} days: {some(old)}" if old else None


def strength(facts: Facts) -> str | None:
    """Passwords in connection addresses cannot be guessed, and no secret stands for two."""
    settings = facts.settings
    given = {name: getattr(settings, name.lower()) for name in sorted(SECRETS)}
    texts = {name: value.get_secret_value() for name, value in given.items() if isinstance(value, SecretStr)}
    weak = [f"{name} {why}" for name in URLS if name in texts and (why := weakness(texts[name])) is not None]
    if weak:
        return f"passwords that can be guessed: {some(weak)}"
    twice = sorted(name for name, text in texts.items() if list(texts.values()).count(text) > 1)
    return f"one value stands for several secrets: {some(twice)}" if twice else None


def webhook_scheme(facts: Facts) -> str | None:
    """``/webhooks/relay`` takes Standard Webhooks alone."""
    secret = facts.settings.webhook_signing_secret
    if secret is None or secret.get_secret_value().startswith(WEBHOOK_PREFIX):
        return None
    until = facts.settings.webhook_legacy_until
    return f"WEBHOOK_SIGNING_SECRET is one of the legacy scheme, which binds no time and no id, until {until}"
