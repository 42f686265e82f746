"""Sentences about steps, for people."""

from collections.abc import Mapping
from typing import Any, Final

from relay.core.references import RESULT_OF
from relay.planning.profile import Parameter, Profile
from relay.planning.unclear import shortened, shown

_MAX_NAMES: Final = 3
_MAX_ABOUT: Final = 200


def summary_of(profile: Profile, params: Mapping[str, Any]) -> str:
    """Return one sentence that says what a step would do, e.g. ``Send an e-mail to a@b.example about “Hello”``.

    It names every kind of recipient and the destination; of further values it says only whence they come.
    """
    to = [parameter for parameter in profile.parameters if parameter.role == "recipients" and parameter.name in params]
    if to:
        return _message(profile, params, to)
    url = profile.main("url")
    if url and url.name in params:
        return _request(profile, params, url)
    said = ", ".join(f"{name} {_value(value)}" for name, value in params.items())
    return f"{_own(profile)}: {said}" if said else _own(profile)


def about(profile: Profile, params: Mapping[str, Any]) -> str:
    """Return a few words that name a step in a title, e.g. ``GET https://example.com/health``."""
    method, url = profile.main("method"), profile.main("url")
    if method and url and method.name in params and url.name in params:
        return shortened(f"{params[method.name]} {params[url.name]}", _MAX_ABOUT)
    return profile.spec.name


def _message(profile: Profile, params: Mapping[str, Any], to: list[Parameter]) -> str:
    noun = "Send an e-mail" if "email" in profile.name_concepts else _own(profile)
    first = profile.main("recipients")
    groups = [f"{'to' if p is first else p.name.replace('_', ' ')} {_names(params[p.name])}" for p in to]
    title = profile.main("title")
    subject = f" about {_value(params[title.name])}" if title and title.name in params else ""
    return f"{noun} {', '.join(groups)}{subject}{_sources(params)}"


def _request(profile: Profile, params: Mapping[str, Any], url: Parameter) -> str:
    method = profile.main("method")
    verb = str(params.get(method.name, "")) if method else ""
    target = f"{params[url.name]}{_sources(params)}"
    if "http" in profile.name_concepts:
        return f"Send a {verb} request to {target}"
    return f"{_own(profile)}: {verb} {target}" if verb else f"{_own(profile)}: {target}"


def _own(profile: Profile) -> str:
    return profile.spec.summary.rstrip(".")


def _sources(params: Mapping[str, Any]) -> str:
    steps = [value[RESULT_OF] for value in params.values() if isinstance(value, Mapping) and RESULT_OF in value]
    return f" with the result of {steps[0]}" if steps else ""


def _names(value: Any) -> str:
    names = [str(name) for name in value] if isinstance(value, list) else [str(value)]
    rest = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _value(value: Any) -> str:
    if isinstance(value, Mapping) and RESULT_OF in value:
        return f"the result of {value[RESULT_OF]}"
    return shown(str(value)) if isinstance(value, str) else shown(repr(value))
