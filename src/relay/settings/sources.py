"""Where settings come from, and in which order.

1. options of the command line (``overrides``), never a secret;
2. for every secret, the credential of its name (:mod:`~relay.settings.credentials`);
3. for every secret, the file that ``NAME_FILE`` names;
4. for every secret, the member of its name in the AWS secret that ``SECRETS_AWS_ID`` names;
5. the process environment; secrets found there are named in one warning in production;
6. ``.env`` in the current folder, in ``local`` only.

The environment goes before ``.env``. Otherwise a secret has one place: one that two of these give is refused,
whatever they say, since nobody could tell which of them a rotation has to change. A ``RELAY_…`` name that does not
exist is refused, any other name that was meant for Relay is told (:mod:`~relay.settings.misspelt`). An empty value is
the same as none. Whatever stands in for a secret without being one (:mod:`~relay.settings.strength`) is refused,
wherever it comes from.

``RELAY_ENV`` comes from the process environment (or an option) alone, and decides whether ``.env`` is opened at all:
a file that someone left in a folder must not be able to take a production process into a mode with fewer checks. A
``.env`` may repeat ``RELAY_ENV=local``; any other value in it is refused.

Every process reads for itself, those of ``--workers`` and ``--reload`` too: none is handed a secret by another.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr, ValidationError

from relay.settings.aws import AwsSecret, read_aws_secret
from relay.settings.credentials import FOLDER, credentials
from relay.settings.errors import SettingsError
from relay.settings.misspelt import NAMES, is_no_secret, sentence, slip, stranger
from relay.settings.model import FIELDS, SECRETS, Settings, variable
from relay.settings.secret_file import SecretFileError, read_secret_file, refuse_foreign
from relay.settings.secret_text import MadeElsewhere, PartlySecret
from relay.settings.strength import has_password, weakness

_ENVIRONMENT: Final = "environment"
_CREDENTIAL: Final = "credential"
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
    """Values by name; secrets are wrapped before anything else looks at them, and have their places noted."""

    values: dict[str, str | SecretStr] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def add(self, source: Mapping[str, str], where: str) -> None:
        """Take over every setting of ``source``, above what was there before."""
        for name, value in source.items():
            if name not in NAMES:
                self._meet(name, value, where)
            elif _CONTROL.search(value):
                self.problems.append(f"{name}: must be text without line breaks and control characters ({where})")
            elif value and name in SECRETS:
                self.values[name] = SecretStr(value)
                self.places[name] = where
            elif value:
                self.values[name] = value

    def _meet(self, name: str, value: str, where: str) -> None:
        if name.upper().startswith("RELAY_"):
            shown = name if is_no_secret(name) else "RELAY_…"
            self.problems.append(f"{shown}: there is no such setting{_hint(name)} ({where})")
        elif value and (told := slip(name, where)):
            self.strangers.append(told)

    def take(self, name: str, place: str) -> bool:
        """Note that ``place`` gives a secret; False, and a problem, when another place does as well."""
        if (other := self.places.setdefault(name, place)) == place:
            return True
        self.problems.append(f"{name}: is given twice, {_at(name, other)} and {_at(name, place)}; leave one of them")
        return False

    def hold(self, name: str, value: SecretStr) -> None:
        """Keep a secret, unless it has characters that none has."""
        if _CONTROL.search(value.get_secret_value()):
            place = self.places[name]
            self.problems.append(f"{name}: must be one line without control characters ({place})")
        else:
            self.values[name] = value


def _load(environ: Mapping[str, str], cwd: Path, overrides: Mapping[str, str]) -> tuple[Settings | None, list[str]]:
    env = overrides.get("RELAY_ENV") or environ.get("RELAY_ENV")
    gathered = _Gathered()
    _add_dotenv(gathered, cwd / ".env", env)
    gathered.add(environ, _ENVIRONMENT)
    _add_options(gathered, overrides)
    folder = environ.get(FOLDER)
    _read_files(gathered, cwd, cwd / folder if folder else None)
    _read_aws(gathered)
    _warn(gathered)
    told = [sentence(gathered.strangers)] if gathered.strangers else []
    gathered.warnings.extend(told)
    settings, problems = _validate(gathered, cwd)
    if problems := sorted({*gathered.problems, *problems}):
        return None, [*problems, *told]
    return settings, []


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
        name, value, place = binding.key, binding.value, f"{path}, line {_line(binding.original)}"
        if binding.error:
            gathered.problems.append(f"{path}: line {_line(binding.original)} is not NAME=value")
        elif name is None or value == "":
            continue
        elif value is not None and (name in NAMES or name.upper().startswith("RELAY_")):
            values[name] = value
        else:
            gathered.strangers.append(stranger(name, value, place))
    return values


def _line(written: Any) -> int:
    # The parser counts the blank lines before a setting as part of it.
    text = str(written.string)
    return int(written.line) + text[: len(text) - len(text.lstrip())].count("\n")


def _add_options(gathered: _Gathered, overrides: Mapping[str, str]) -> None:
    gathered.problems.extend(
        f"{name}: is not taken from the command line, which every user of this machine can read; give it as a file"
        for name in overrides
        if name in SECRETS
    )
    gathered.add({name: value for name, value in overrides.items() if name not in SECRETS}, "option")


def _read_files(gathered: _Gathered, cwd: Path, folder: Path | None) -> None:
    found, problems, slips = credentials(folder) if folder is not None else ({}, [], [])
    gathered.problems.extend(problems)
    gathered.strangers.extend(slips)
    for name in sorted(SECRETS):
        named = gathered.values.pop(f"{name}_FILE", None)
        path = cwd / named if isinstance(named, str) else None
        credential = found.get(name)
        if credential is not None:
            # A unit may name its credential's file as well, as units for older versions do: that is one place.
            path = None if path is not None and _same(path, credential) else path
            _read_file(gathered, name, credential, f"{_CREDENTIAL} {credential}", name)
        if path is not None:
            _read_file(gathered, name, path, f"{name}_FILE, {path}", f"{name}_FILE")


def _read_file(gathered: _Gathered, name: str, path: Path, place: str, label: str) -> None:
    if not gathered.take(name, place):
        return
    try:
        value = SecretStr(read_secret_file(path))
    except SecretFileError as error:
        gathered.problems.append(f"{label}: {error}")
    else:
        gathered.hold(name, value)


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False


def _read_aws(gathered: _Gathered) -> None:
    try:
        where = AwsSecret.of(gathered.values)
    except ValueError:
        return  # the model says what is wrong with it
    if where is None:
        return
    members, problems = read_aws_secret(where)
    gathered.problems.extend(problems)
    for name, value in members.items():
        if name not in SECRETS:
            continue
        if value is None:
            gathered.problems.append(f"{name}: must be text in double quotes ({where.place})")
        elif value.get_secret_value() and gathered.take(name, where.place):
            gathered.hold(name, value)
    gathered.problems.extend(f"{sentence} ({where.place})" for sentence in _strangers(members.keys() - SECRETS))


def _strangers(names: Set[str]) -> Iterator[str]:
    for name in sorted(names & FIELDS.keys()):
        yield f"{name}: is not a secret; give it in the environment"
    # A name that is not Relay's own is not repeated: who mixes up names and values has written a secret there.
    if unknown := names - FIELDS.keys():
        hints = sorted({close for name in unknown if (close := _close(name, SECRETS))})
        hint = f"; did you mean {', '.join(hints)}?" if hints else ""
        yield f"SECRETS_AWS_ID: names that are no secrets of Relay's, {len(unknown)} of them{hint}"


def _warn(gathered: _Gathered) -> None:
    if gathered.values.get("RELAY_ENV", "production") != "production":
        return
    if gathered.values.get("SECRETS_FROM_ENVIRONMENT") == "accepted":
        return
    from_environment = [name for name, place in sorted(gathered.places.items()) if place == _ENVIRONMENT]
    named = [name for name in from_environment if _holds_secret(gathered.values.get(name))]
    if named:
        gathered.warnings.append(
            f"secrets in the process environment: {', '.join(named)}; give them as files ({named[0]}_FILE), "
            "or set SECRETS_FROM_ENVIRONMENT=accepted where the platform manages the environment"
        )


def _holds_secret(value: str | SecretStr | None) -> bool:
    if not isinstance(value, SecretStr):
        return False
    text = value.get_secret_value()
    return "://" not in text or has_password(text)


def _validate(gathered: _Gathered, cwd: Path) -> tuple[Settings | None, list[str]]:
    data = {**gathered.values, "warnings": tuple(gathered.warnings)}
    try:
        settings = Settings.model_validate(data, context={"cwd": cwd})
    except ValidationError as error:
        # Only the place and the sentence are taken over: the error itself knows the values.
        details = error.errors(include_url=False, include_input=False)
        settings = None
    else:
        details = []
    # A default that depends on another setting is not computed while that one is wrong: nothing to report.
    told = [detail for detail in details if detail["type"] != "default_factory_not_called"]
    problems = [(_name(str(detail["loc"][0])), _sentence(detail["msg"])) for detail in told]
    problems += _weak(gathered, {name for name, _ in problems})
    return settings, [f"{name}: {sentence}{_in(gathered, name)}" for name, sentence in problems]


def _weak(gathered: _Gathered, refused: set[str]) -> list[tuple[str, str]]:
    production = gathered.values.get("RELAY_ENV", "production") == "production"
    found = []
    for name, value in gathered.values.items():
        if isinstance(value, SecretStr) and name not in refused:
            whole = not any(isinstance(mark, PartlySecret | MadeElsewhere) for mark in FIELDS[name].metadata)
            reason = weakness(value.get_secret_value(), production=production, whole=whole)
            found += [(name, reason)] if reason else []
    return found


def _in(gathered: _Gathered, name: str) -> str:
    return f" ({gathered.places[name]})" if name in gathered.places else ""


def _at(name: str, place: str) -> str:
    return f"in the environment ({name})" if place == _ENVIRONMENT else f"by {place}"


def _name(place: str) -> str:
    # What is wrong with a value stands under the setting's name, what is wrong with a default under the field's.
    return place if place in FIELDS else variable(place)


def _sentence(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "must be")


def _hint(name: str) -> str:
    if _SERVICE_LINK.fullmatch(name):
        return "; if Kubernetes made it for a service named relay, set enableServiceLinks: false"
    close = _close(name, FIELDS)
    return f"; did you mean {close}?" if close else ""


def _close(name: str, names: Iterable[str]) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name.upper(), sorted(names), n=1, cutoff=0.8)), "")
