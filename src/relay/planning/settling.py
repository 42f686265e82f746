"""What is decided once a clause has been read through: loose quotations, the method, and what is missing."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

from relay.planning.profile import Parameter, Profile, methods_of
from relay.planning.reading import Token
from relay.planning.references import Earlier
from relay.planning.unclear import Unclear, shortened, shown
from relay.planning.words import RETRIEVALS, concept, plain_word

_WANTED: Final[Mapping[str, str]] = {
    "recipients": "an address (a@b.example, or a name that context.contacts gives an address)",
    "url": "a full URL (https://…)",
    "method": "a method (GET, POST, PUT, PATCH, DELETE)",
    "json": "a JSON value",
    "map": "a JSON object",
    "title": "a subject (about “…”)",
    "text": "a text (saying “…”)",
}
_BODILESS: Final = frozenset({"GET", "HEAD"})


def place_quotes(profile: Profile, values: dict[str, Any], quotes: Sequence[Token]) -> None:
    """Give a single quotation that nothing announced to the action's text."""
    if not quotes:
        return
    parameter = profile.main("text") or profile.main("json")
    taken = {name for name in values if name in _content_names(profile)}
    if parameter is None or len(quotes) > 1 or taken:
        raise Unclear(f"it is not clear what {shown(quotes[-1].text)} is for")
    values[parameter.name] = quotes[0].value


def refuse_strange(profile: Profile, strange: Sequence[Token], values: Mapping[str, Any]) -> None:
    """Refuse a clause that holds something which ``profile``'s action has no place for."""
    if not strange:
        return
    missing = missing_from(profile, values)
    said = ", ".join(shown(token.text) for token in strange[:5])
    hint = ""
    if profile.main("recipients") and any(token.kind == "word" and token.text[0].isupper() for token in strange):
        hint = "; if it is a recipient, give the address or put the name into context.contacts"
    needs = f", which also needs {missing}" if missing else ""
    raise Unclear(f"{said} is not understood for {profile.spec.name}{needs}{hint}", strange=len(strange))


def settle_method(profile: Profile, values: dict[str, Any], verb: str) -> list[str]:
    """Choose the HTTP method where the clause names none but leaves no doubt; return warnings.

    A verb of retrieval without a body means GET. An action's own default stands where the verb is the action's
    own name ("save") and for a default that carries a body; otherwise the method is missing.
    """
    parameter = profile.main("method")
    if parameter is None:
        return []
    body = bool(_content_names(profile) & values.keys())
    if parameter.name not in values:
        if plain_word(verb) in RETRIEVALS and not body and "GET" in methods_of(parameter):
            values[parameter.name] = "GET"
        elif parameter.required or not _default_stands(profile, parameter, verb, body):
            raise Unclear(f"{profile.spec.name} needs {_WANTED['method']}")
    if values.get(parameter.name) in ("POST", "PUT", "PATCH") and not body:
        return ["No body was given; the request carries none."]
    return []


def _default_stands(profile: Profile, parameter: Parameter, verb: str, body: bool) -> bool:
    if body:
        return parameter.schema.get("default") not in _BODILESS
    return concept(verb) in profile.name_concepts


def title_result(
    profile: Profile, values: dict[str, Any], references: Mapping[str, str], earlier: Sequence[Earlier]
) -> list[str]:
    """Give a message that carries an earlier result the title that its action requires; return warnings.

    The title of any other message is for the caller to say.
    """
    title, text = profile.main("title"), profile.main("text")
    if title is None or text is None or not title.required or title.name in values or text.name not in references:
        return []
    source = next(step for step in earlier if step.step_id == references[text.name])
    values[title.name] = f"Result of {source.about}"
    return [f"No {title.name} was given; it will read {shown(values[title.name])}."]


def missing_from(profile: Profile, values: Mapping[str, Any]) -> str:
    """Say what the schema requires, or a message without recipients or content lacks; "" for nothing."""
    missing = [parameter for parameter in profile.parameters if parameter.required and parameter.name not in values]
    recipients, text = profile.main("recipients"), profile.main("text")
    if recipients and not any(
        parameter.role == "recipients" for parameter in profile.parameters if parameter.name in values
    ):
        missing = [recipients, *(parameter for parameter in missing if parameter is not recipients)]
    if recipients and text and text not in missing and not _content_names(profile) & values.keys():
        missing.append(text)
    return " and ".join(map(_wanted, missing))


def _wanted(parameter: Parameter) -> str:
    return _WANTED.get(parameter.role, f"a value for {parameter.name} ({parameter.name} “…”)")


def _content_names(profile: Profile) -> frozenset[str]:
    return frozenset(
        parameter.name
        for parameter in profile.parameters
        if parameter.role in ("text", "json") or parameter.name == "html"
    )


def validate(profile: Profile, values: Mapping[str, Any], references: Mapping[str, str]) -> None:
    """Check the parameters against the action's schema, with something fitting in place of each reference."""
    stand_ins = {
        parameter.name: {} if parameter.role == "json" and not values[parameter.name]["pointer"] else "result"
        for parameter in profile.parameters
        if parameter.name in references
    }
    try:
        profile.spec.params.model_validate({**values, **stand_ins})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the parameters"
        raise Unclear(f"{profile.spec.name} does not accept {place}: {shortened(first['msg'], 200)}") from None


def completeness(profile: Profile, values: Mapping[str, Any]) -> float:
    """Return the share of what such a step usually says that was said: required parameters, and a message's title."""
    usual = [parameter for parameter in profile.parameters if parameter.required or parameter.role == "title"]
    return sum(parameter.name in values for parameter in usual) / len(usual) if usual else 1.0
