"""What the planner needs to know of an action, derived once from its specification.

Nothing here knows a connector by name: roles follow from the names, formats and types in the parameters' JSON Schema.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from relay.catalog import ActionSpec
from relay.planning.reading import Token
from relay.planning.words import GLUE, HTTP_METHODS, MESSAGE_GLUE, REQUEST_GLUE, concept, plain_word

Role = Literal["recipients", "url", "method", "json", "map", "title", "text", "value"]

_RECIPIENTS: Final = ("to", "recipients", "recipient", "email", "cc", "bcc", "reply_to")
_TITLES: Final = ("subject", "title")
_TEXTS: Final = ("text", "message", "body", "content", "comment", "description", "note")
_JSON: Final = ("json", "json_", "json_body", "payload", "data")

# Phrases that announce a role's value wherever they stand. The role's own names ("message", "body") do so only
# where a value follows at once, since they are ordinary nouns too ("send a message to …").
_ANNOUNCE: Final[Mapping[Role, tuple[str, ...]]] = {
    "title": ("about", "regarding", "re", "subject", "subject line", "titled", "title"),
    "text": ("saying", "say", "that say", "which say", "to say", "reading"),
}
_NOUNS: Final[Mapping[Role, tuple[str, ...]]] = {
    "text": ("text", "message", "body", "content"),
    "json": ("json", "payload", "data", "body", "json body", "json payload"),
    "url": ("url",),
}


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter: its role, whether it is required, whether it takes several values, and its JSON Schema."""

    name: str
    role: Role
    required: bool
    many: bool
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Label:
    """A phrase that announces a parameter's value; a ``firm`` one must be followed by a value."""

    words: tuple[str, ...]
    parameter: Parameter
    firm: bool


@dataclass(frozen=True, slots=True)
class Profile:
    """An action as the planner sees it. ``weights`` are for ranking, ``vocabulary`` for what a step may say."""

    spec: ActionSpec
    parameters: tuple[Parameter, ...]
    results: frozenset[str]
    name_concepts: frozenset[str]
    weights: Mapping[str, float]
    vocabulary: frozenset[str]
    labels: Mapping[str, tuple[Label, ...]] = field(repr=False)

    def main(self, role: Role) -> Parameter | None:
        """Return the parameter that an unannounced value of ``role`` belongs to."""
        return next((parameter for parameter in self.parameters if parameter.role == role), None)

    def label_at(self, tokens: Sequence[Token], at: int) -> Label | None:
        """Return the longest label that begins at ``tokens[at]``."""
        if tokens[at].kind != "word":
            return None
        for label in self.labels.get(plain_word(tokens[at].text), ()):
            words = tokens[at : at + len(label.words)]
            if tuple(plain_word(token.text) for token in words if token.kind == "word") == label.words:
                return label
        return None


def profile_of(spec: ActionSpec) -> Profile:
    """Return the profile of an action; costs about a millisecond, so callers keep it."""
    schema = spec.params.model_json_schema()
    parameters = _parameters(schema)
    names = frozenset(concept(word) for word in _name_words(spec.name))
    own = frozenset(plain_word(word) for parameter in parameters for word in _name_words(parameter.name))
    glue = set(GLUE)
    roles = {parameter.role for parameter in parameters}
    if roles & {"recipients", "text"}:
        glue |= MESSAGE_GLUE
    if "url" in roles:
        glue |= REQUEST_GLUE
    return Profile(
        spec=spec,
        parameters=parameters,
        results=frozenset(spec.result.model_json_schema().get("properties", ())),
        name_concepts=names,
        weights=_weights(spec, parameters, names),
        vocabulary=frozenset(map(plain_word, glue)) | own,
        labels=_labels(parameters),
    )


def _name_words(name: str) -> list[str]:
    return [word for word in name.replace(".", "_").split("_") if word]


def _weights(spec: ActionSpec, parameters: Sequence[Parameter], names: frozenset[str]) -> dict[str, float]:
    """Name 3, HTTP method that the action takes 2, parameter name 1, summary 1; each concept counts once."""
    weights: dict[str, float] = {}
    for word in spec.summary.replace("-", " ").split():
        plain = concept(word.strip(".,;:()"))
        if plain and plain not in GLUE:
            weights[plain] = 1
    for parameter in parameters:
        weights |= {concept(word): 1 for word in _name_words(parameter.name) if concept(word) not in GLUE}
        weights |= {"url": 1} if parameter.role == "url" else {}
        weights |= {"json": 1} if parameter.role == "json" else {}
        weights |= {method.lower(): 2 for method in methods_of(parameter)} if parameter.role == "method" else {}
    return weights | dict.fromkeys(names, 3.0)


def _parameters(schema: Mapping[str, Any]) -> tuple[Parameter, ...]:
    required = set(schema.get("required", ()))
    definitions = schema.get("$defs", {})
    found = [
        _parameter(name, flat(given, definitions), name in required)
        for name, given in schema.get("properties", {}).items()
    ]
    return tuple(sorted(found, key=_prominence))


def flat(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema with ``$ref`` resolved and "or null" taken away."""
    result = dict(schema)
    if "$ref" in result:
        result = {**definitions.get(result.pop("$ref").rpartition("/")[2], {}), **result}
    options = [option for option in result.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        del result["anyOf"]
        return {**flat(options[0], definitions), **result}
    if isinstance(items := result.get("items"), Mapping):
        result["items"] = flat(items, definitions)
    return result


def methods_of(parameter: Parameter) -> frozenset[str]:
    """Return the HTTP methods that a parameter of role ``method`` takes."""
    return frozenset(parameter.schema.get("enum", HTTP_METHODS)) & HTTP_METHODS


def _parameter(name: str, schema: dict[str, Any], required: bool) -> Parameter:
    many = schema.get("type") == "array"
    return Parameter(name, _role(name.lower(), schema, many), required, many, schema)


def _role(name: str, schema: Mapping[str, Any], many: bool) -> Role:
    kind = schema.get("type")
    single = schema.get("items", {}) if many else schema
    form = str(single.get("format", ""))
    textual = single.get("type") == "string"
    if name == "method" or HTTP_METHODS.issuperset(schema.get("enum", ("",))):
        return "method"
    if form in ("email", "idn-email") or (textual and name in _RECIPIENTS):
        return "recipients"
    if textual and (form.startswith(("uri", "iri")) or name in ("url", "uri", "link") or name.endswith("_url")):
        return "url"
    if name in _JSON:
        return "json"
    if kind == "object":
        return "map"
    if textual and not many and name in (*_TITLES, *_TEXTS) and "enum" not in schema:
        return "title" if name in _TITLES else "text"
    return "value"


def _prominence(parameter: Parameter) -> tuple[bool, int]:
    order = (*_RECIPIENTS, *_TITLES, *_TEXTS, *_JSON)
    return (not parameter.required, order.index(parameter.name) if parameter.name in order else len(order))


def _labels(parameters: Sequence[Parameter]) -> dict[str, tuple[Label, ...]]:
    found: dict[tuple[str, ...], Label] = {}

    def add(phrase: str, parameter: Parameter, firm: bool) -> None:
        words = tuple(plain_word(word) for word in phrase.split())
        found.setdefault(words, Label(words, parameter, firm))

    seen: set[Role] = set()
    for parameter in parameters:
        main = parameter.role not in seen
        seen.add(parameter.role)
        own = parameter.name.strip("_").replace("_", " ")
        if parameter.role != "method" and own not in ("to", "email", "recipient", "recipients"):
            add(own, parameter, firm=not (main and parameter.role in _NOUNS))
        if main:
            for phrase in _ANNOUNCE.get(parameter.role, ()):
                add(phrase, parameter, firm=True)
    for role, nouns in _NOUNS.items():
        parameter_or_none = next((parameter for parameter in parameters if parameter.role == role), None)
        if parameter_or_none is not None:
            for noun in nouns:
                add(noun, parameter_or_none, firm=False)
    grouped: dict[str, list[Label]] = {}
    for label in sorted(found.values(), key=lambda label: -len(label.words)):
        grouped.setdefault(label.words[0], []).append(label)
    return {word: tuple(labels) for word, labels in grouped.items()}
