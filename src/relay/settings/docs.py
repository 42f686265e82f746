"""The configuration table of the documentation, made from the model. ``python -m relay.settings.docs`` prints it."""

import sys
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from relay.settings.model import FIELDS, SECRETS

_INTRODUCTION: Final = """# Configuration

Relay is configured by the environment. This page is generated from the code: `python -m relay.settings.docs`.

Settings are taken from, in this order: options of the command line; for a secret, the credential of its name in the
folder that `CREDENTIALS_DIRECTORY` names, the file that `NAME_FILE` names, or AWS Secrets Manager; the process
environment; `.env` in the current folder, when the process environment says `RELAY_ENV=local`. An empty value is the
same as none. Start-up refuses a `RELAY_…` name that does not exist, a value out of bounds, a secret that stands in two
places, in a file that others could use, or that is a placeholder or too weak; it names every problem at once. Other
names that are no settings are ignored, with one warning: every one in `.env`, and what is nearly a setting's elsewhere.

[Secrets](secrets.md) tells what is secret, how each platform hands it over, and what is refused and why. In production,
secrets found in the environment are named in a warning; `SECRETS_FROM_ENVIRONMENT=accepted` silences it.

| name | meaning | values | default | secret |
|---|---|---|---|---|
"""


def configuration_markdown() -> str:
    """Return the page ``docs/configuration.md``: of each setting the meaning, values, default, whether it is secret."""
    return _INTRODUCTION + "".join(_row(name, info) for name, info in FIELDS.items())


def _row(name: str, info: FieldInfo) -> str:
    secret = f"yes, or `{name}_FILE`" if name in SECRETS else ""
    cells = (f"`{name}`", info.description or "", _values(info), _default(info), secret)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _default(info: FieldInfo) -> str:
    extra: Any = info.json_schema_extra
    if isinstance(extra, dict) and "shown_default" in extra:
        return str(extra["shown_default"])
    value = info.default
    if value is None or value == () or value is PydanticUndefined:
        return "none"
    return f"`{str(value).lower()}`"


def _values(info: FieldInfo) -> str:
    if get_origin(info.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(info.annotation))
    if info.annotation is bool:
        return "`true`, `false`"
    bounds = {
        key: value for meta in info.metadata for key in ("ge", "le") if (value := getattr(meta, key, None)) is not None
    }
    return f"{bounds['ge']} to {bounds['le']}" if len(bounds) == 2 else ""


if __name__ == "__main__":
    sys.stdout.write(configuration_markdown())
