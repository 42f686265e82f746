"""Where settings come from, and in which order.

1. options of the command line (``overrides``);
2. for every secret, the file that ``NAME_FILE`` names;
3. the process environment; secrets found there are named in one warning in production;
4. ``.env`` in the current folder, in ``local`` only.

``NAME`` and ``NAME_FILE`` together are refused, and so is a ``RELAY_…`` name that does not exist. An empty value is
the same as none.

``RELAY_ENV`` comes from the process environment (or an option) alone, and decides whether ``.env`` is opened at all:
a file that someone left in a folder must not be able to take a production process into a mode with fewer checks. A
``.env`` may repeat ``RELAY_ENV=local``; any other value in it is refused.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import SecretStr, ValidationError

from relay.settings import parse
from relay.settings.errors import SettingsError
from relay.settings.model import FIELDS, SECRETS, Settings, variable
from relay.settings.secret_file import SecretFileError, read_secret_file, refuse_foreign

_NAMES: Final = frozenset(FIELDS) | {f"{name}_FILE" for name in SECRETS}
_SERVICE_LINK: Final = re.compile(r"RELAY_(SERVICE_.*|PORT_.*)")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def load_settings(
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    overrides: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings of this process.

    ``environ`` is the process's own by default, ``cwd`` the current folder. ``overrides`` are options of the command
    line under the names of settings. :class:`SettingsError` lists every problem at once, names settings and paths,
    and carries no value.
    """
    settings, problems = _load(
        os.environ if environ is None else environ, Path.cwd() if cwd is None else cwd, overrides or {}
    )
    if settings is None:
        # A traceback that prints local variables must find no value in this frame.
        del environ, overrides
        raise SettingsError(problems) from None
    return settings


@dataclass
class _Gathered:
    """Values by name; secrets are wrapped before anything else looks at them."""

    values: dict[str, str | SecretStr] = field(default_factory=dict)
    from_environment: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, source: Mapping[str, str], where: str) -> None:
        """Take over every setting of ``source``, above what was there before."""
        for name, value in source.items():
            if name not in _NAMES:
                if name.upper().startswith("RELAY_"):
                    self.problems.append(f"{name}: there is no such setting{_hint(name)} ({where})")
            elif _CONTROL.search(value):
                self.problems.append(f"{name}: must be text without line breaks and control characters ({where})")
            elif value:
                self.values[name] = SecretStr(value) if name in SECRETS else value
                if where == "environment":
                    self.from_environment.add(name)


def _load(environ: Mapping[str, str], cwd: Path, overrides: Mapping[str, str]) -> tuple[Settings | None, list[str]]:
    env = overrides.get("RELAY_ENV") or environ.get("RELAY_ENV")
    gathered = _Gathered()
    _add_dotenv(gathered, cwd / ".env", env)
    gathered.add(environ, "environment")
    gathered.add(overrides, "option")
    _read_files(gathered, cwd)
    _warn(gathered)
    settings, problems = _validate(gathered, cwd)
    problems = sorted({*gathered.problems, *problems})
    return (None if problems else settings), problems


def _add_dotenv(gathered: _Gathered, path: Path, env: str | None) -> None:
    if not os.path.isfile(path):
        return
    if env != "local":
        gathered.warnings.append(f"{path} is not read, since RELAY_ENV is not local in the process environment")
        return
    try:
        refuse_foreign(path, path.stat())
        text = path.read_text(encoding="utf-8")
    except (SecretFileError, OSError, UnicodeDecodeError) as error:
        reason = str(error) if isinstance(error, SecretFileError) else "it cannot be read as UTF-8 text"
        gathered.problems.append(f"{path}: {reason}")
        return
    values = _parse_dotenv(gathered, path, text)
    if values.pop("RELAY_ENV", "") not in ("", "local"):
        gathered.problems.append(f"RELAY_ENV: {path} may not change it; set it in the process environment")
    gathered.add(values, str(path))


def _parse_dotenv(gathered: _Gathered, path: Path, text: str) -> dict[str, str]:
    # Only local installations that have the file pay for these imports.
    import io

    from dotenv.parser import parse_stream

    values: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error:
            gathered.problems.append(f"{path}: line {binding.original.line} is not NAME=value")
        elif binding.key is not None:
            values[binding.key] = binding.value or ""
    return values


def _read_files(gathered: _Gathered, cwd: Path) -> None:
    for name in sorted(SECRETS):
        path = gathered.values.pop(f"{name}_FILE", None)
        if not isinstance(path, str):
            continue
        if name in gathered.values:
            gathered.problems.append(f"{name}: set either {name} or {name}_FILE, not both")
            continue
        try:
            text = read_secret_file(cwd / path)
        except SecretFileError as error:
            gathered.problems.append(f"{name}_FILE: {error}")
            continue
        if _CONTROL.search(text):
            gathered.problems.append(f"{name}_FILE: {cwd / path} must hold one line without control characters")
        else:
            gathered.values[name] = SecretStr(text)


def _warn(gathered: _Gathered) -> None:
    if gathered.values.get("RELAY_ENV", "production") != "production":
        return
    if gathered.values.get("SECRETS_FROM_ENVIRONMENT") == "accepted":
        return
    named = [name for name in sorted(SECRETS & gathered.from_environment) if _holds_secret(gathered.values.get(name))]
    if named:
        gathered.warnings.append(
            f"secrets in the process environment: {', '.join(named)}; give them as files ({named[0]}_FILE), "
            "or set SECRETS_FROM_ENVIRONMENT=accepted where the platform manages the environment"
        )


def _holds_secret(value: str | SecretStr | None) -> bool:
    if not isinstance(value, SecretStr):
        return False
    text = value.get_secret_value()
    return "://" not in text or parse.has_password(text)


def _validate(gathered: _Gathered, cwd: Path) -> tuple[Settings | None, list[str]]:
    data = {**gathered.values, "warnings": tuple(gathered.warnings)}
    try:
        return Settings.model_validate(data, context={"cwd": cwd}), []
    except ValidationError as error:
        # Only the place and the sentence are taken over: the error itself knows the values.
        details = error.errors(include_url=False, include_input=False)
    # A default that depends on another setting is not computed while that one is wrong: nothing to report.
    told = [detail for detail in details if detail["type"] != "default_factory_not_called"]
    return None, [f"{_name(str(detail['loc'][0]))}: {_sentence(detail['msg'])}" for detail in told]


def _name(place: str) -> str:
    # What is wrong with a value stands under the setting's name, what is wrong with a default under the field's.
    return place if place in FIELDS else variable(place)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _hint(name: str) -> str:
    import difflib

    if _SERVICE_LINK.fullmatch(name):
        return "; if Kubernetes made it for a service named relay, set enableServiceLinks: false"
    close = difflib.get_close_matches(name.upper(), sorted(FIELDS), n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""
