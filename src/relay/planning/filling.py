"""From a clause to an action's parameters, every word accounted for.

Whatever the action does not know a place for makes the filling fail: a word that was not understood may be the one
that turns the meaning round.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from relay.planning.literals import free_text, scalar
from relay.planning.profile import Label, Parameter, Profile, Role, methods_of
from relay.planning.reading import Token
from relay.planning.references import Earlier, Reference, reference_at
from relay.planning.segmenting import Clause, word_of
from relay.planning.settling import missing_from, place_quotes, refuse_strange, settle_method, title_result, validate
from relay.planning.unclear import Unclear, shown
from relay.planning.words import BEFORE, CLOSINGS, HTTP_METHODS, RETRIEVALS, concept, plain_word

_ROLES: Final[Mapping[str, Role]] = {"address": "recipients", "contact": "recipients", "url": "url", "json": "json"}


@dataclass(frozen=True, slots=True)
class Filled:
    """Parameters that the action's schema accepts, and the ids of the steps whose results they refer to."""

    params: dict[str, Any]
    refers_to: tuple[str, ...]
    warnings: tuple[str, ...]


def fill(profile: Profile, clause: Clause, prompt: str, earlier: Sequence[Earlier]) -> Filled:
    """Return the parameters of one step; :class:`Unclear` says what is missing or was not understood."""
    filling = _Filling(profile, clause, prompt, earlier)
    filling.walk()
    place_quotes(profile, filling.values, filling.quotes)
    refuse_strange(profile, filling.strange, filling.values)
    warnings = settle_method(profile, filling.values, clause.tokens[0].text)
    warnings += title_result(profile, filling.values, filling.references, earlier)
    if missing := missing_from(profile, filling.values):
        raise Unclear(f"{profile.spec.name} needs {missing}")
    validate(profile, filling.values, filling.references)
    return Filled(filling.values, tuple(filling.references.values()), tuple(warnings))


def _is_thanks(token: Token) -> bool:
    return word_of(token) in CLOSINGS or token.kind in ("mark", "stop", "question")


@dataclass
class _Filling:
    profile: Profile
    clause: Clause
    prompt: str
    earlier: Sequence[Earlier]
    values: dict[str, Any] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    quotes: list[Token] = field(default_factory=list)
    strange: list[Token] = field(default_factory=list)
    thanks: int = field(init=False)

    def __post_init__(self) -> None:
        # The index from which on the clause consists of thanks, found once: looking it up per word is quadratic.
        self.thanks = len(self.clause.tokens)
        while self.thanks and _is_thanks(self.clause.tokens[self.thanks - 1]):
            self.thanks -= 1

    def walk(self) -> None:
        """Give every token of the clause its place."""
        tokens, at = self.clause.tokens, 0
        if text := self._spoken():
            at = text
        while at < len(tokens):
            if found := reference_at(tokens, at, self.earlier):
                self._refer(self._content(found[0]), found[0])
                at = found[1]
            elif at and (label := self.profile.label_at(tokens, at)):
                at = self._labelled(label, at)
            else:
                self._unlabelled(tokens[at], at)
                at += 1

    # Values that stand on their own

    def _unlabelled(self, token: Token, at: int) -> None:
        role = _ROLES.get(token.kind)
        parameter = self.profile.main(role) if role else None
        harmless = token.kind in ("newline", "stop") or token.is_mark(",:")
        if not harmless and token.kind in BEFORE and not self._placed(token, at):
            self.strange.append(token)
        elif token.kind == "quote":
            self.quotes.append(token)
        elif token.kind == "word":
            self._word(token, at)
        elif harmless or (token.kind == "question" and self.clause.polite):
            return
        elif parameter is None or not self._put(parameter, token.value):
            self.strange.append(token)

    def _word(self, token: Token, at: int) -> None:
        word, tokens = word_of(token), self.clause.tokens
        before_request = at + 1 < len(tokens) and word_of(tokens[at + 1]) == "request"
        method = self.profile.main("method")
        named = token.text if at and not before_request else word.upper()
        if method and named in HTTP_METHODS and named in methods_of(method):
            if self.values.setdefault(method.name, named) != named:
                raise Unclear(f"it names two methods, {self.values[method.name]} and {named}")
            return
        if self._means_nothing_else(token, at) or self._from_url(at):
            return
        if (channel := self._channel()) and token.text[0] == "#" and self._put(channel, token.text):
            return
        self.strange.append(token)

    def _means_nothing_else(self, token: Token, at: int) -> bool:
        word, vocabulary = word_of(token), self.profile.vocabulary
        own = word in vocabulary or plain_word(word) in vocabulary or concept(word) in self.profile.name_concepts
        return own or word == "please" or at >= self.thanks

    def _from_url(self, at: int) -> bool:
        tokens = self.clause.tokens
        retrieves = word_of(tokens[0]) in RETRIEVALS | {"get"}
        return retrieves and word_of(tokens[at]) == "from" and at + 1 < len(tokens) and tokens[at + 1].kind == "url"

    def _placed(self, token: Token, at: int) -> bool:
        """Tell whether an unannounced value stands where one of its kind belongs."""
        if at < 2:
            return at == 1
        before = self.clause.tokens[at - 1]
        if before.kind != "word":
            return True
        word = word_of(before)
        return word in BEFORE[token.kind] or concept(word) in self.profile.name_concepts or before.text in HTTP_METHODS

    def _channel(self) -> Parameter | None:
        names = ("channel", "channels", "room")
        return next((parameter for parameter in self.profile.parameters if parameter.name in names), None)

    def _spoken(self) -> int:
        """Take "echo hello world": an action that wants one text and nothing else, called by its own name."""
        needed = [parameter for parameter in self.profile.parameters if parameter.required]
        tokens = self.clause.tokens
        if len(needed) != 1 or needed[0].role != "text" or concept(tokens[0].text) not in self.profile.name_concepts:
            return 0
        if len(tokens) < 2 or reference_at(tokens, 1, self.earlier) or any(token.kind == "quote" for token in tokens):
            return 0
        if any(self.profile.label_at(tokens, at) for at in range(1, len(tokens))):
            return 0
        start = 2 if tokens[1].is_mark(":") else 1
        value, at = free_text(self.profile, self.clause, start, self.prompt, needed[0])
        self._put(needed[0], value)
        return at

    # Values that a label announces

    def _labelled(self, label: Label, at: int) -> int:
        tokens, parameter = self.clause.tokens, label.parameter
        after = at + len(label.words)
        announced = after
        while announced < len(tokens) and self._links(parameter, announced):
            announced += 1
        colon = any(token.is_mark(":=") for token in tokens[after:announced])
        value = tokens[announced] if announced < len(tokens) else None
        if value is not None and value.kind == "json":
            parameter = self._for_json(parameter)
        if (
            not label.firm
            and not colon
            and (value is None or announced != after or value.kind not in ("quote", "json", "url"))
        ):
            return after
        if value is None:
            raise Unclear(f"nothing follows {shown(' '.join(token.text for token in tokens[at:after]))}")
        return self._value_of(parameter, announced)

    def _links(self, parameter: Parameter, at: int) -> bool:
        """Tell whether a token only links a label to its value: a colon, "cc to a@b.example", "a subject of “Hi”"."""
        token, after = self.clause.tokens[at], self.clause.tokens[at + 1 : at + 2]
        if parameter.role == "recipients" and word_of(token) == "to":
            return True
        named = word_of(token) in ("is", "of") and bool(after) and after[0].kind in ("quote", "json", "url")
        return named or token.is_mark(":=") or token.kind == "newline"

    def _for_json(self, parameter: Parameter) -> Parameter:
        return (self.profile.main("json") or parameter) if parameter.role == "text" else parameter

    def _value_of(self, parameter: Parameter, at: int) -> int:
        tokens = self.clause.tokens
        token = tokens[at]
        if parameter.role == "recipients":
            return self._recipients(parameter, at)
        if parameter.role in ("text", "json") and (found := reference_at(tokens, at, self.earlier)):
            self._refer(parameter, found[0])
            return found[1]
        if token.kind in ("quote", "json", "url"):
            self._put_once(parameter, token.value)
            return at + 1
        if parameter.role in ("title", "text"):
            value, end = free_text(self.profile, self.clause, at, self.prompt, parameter)
            self._put_once(parameter, value)
            return end
        if token.kind == "word":
            self._put_once(parameter, scalar(parameter, token.text))
            return at + 1
        raise Unclear(f"{shown(token.text)} is no value for {parameter.name}")

    def _recipients(self, parameter: Parameter, at: int) -> int:
        tokens, end = self.clause.tokens, at
        while end < len(tokens) and tokens[end].kind in ("address", "contact"):
            self._put(parameter, tokens[end].value)
            end += 1
            ahead = end
            while ahead < len(tokens) and (tokens[ahead].is_mark(",") or word_of(tokens[ahead]) in ("and", "&")):
                ahead += 1
            if ahead == end and ahead < len(tokens) and tokens[ahead].kind in ("address", "contact"):
                raise Unclear(f"it is not clear whether {shown(tokens[ahead].text)} belongs to {parameter.name}")
            if ahead < len(tokens) and tokens[ahead].kind in ("address", "contact"):
                end = ahead
        if end == at:
            raise Unclear(f"{shown(tokens[at].text)} is no address for {parameter.name}")
        return end

    # Putting values in

    def _put(self, parameter: Parameter, value: Any) -> bool:
        """Give ``parameter`` a value; False when it has one already and takes no more."""
        if parameter.many and not isinstance(value, list):
            held = self.values.setdefault(parameter.name, [])
            if value not in held:
                held.append(value)
            return True
        if parameter.name in self.values:
            return False
        self.values[parameter.name] = value
        return True

    def _put_once(self, parameter: Parameter, value: Any) -> None:
        if not self._put(parameter, value):
            raise Unclear(f"it gives {parameter.name} twice")

    def _content(self, reference: Reference) -> Parameter:
        text, json = self.profile.main("text"), self.profile.main("json")
        parameter = (json or text) if not reference.pointer else (text or json)
        if parameter is None:
            raise Unclear(f"{self.profile.spec.name} has no place for an earlier result")
        return parameter

    def _refer(self, parameter: Parameter, reference: Reference) -> None:
        self._put_once(parameter, reference.as_value(as_text=parameter.role == "text"))
        self.references[parameter.name] = reference.step_id
