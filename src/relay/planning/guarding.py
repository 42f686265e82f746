"""What makes the planner decline before it looks for an action."""

from collections.abc import Sequence

from relay.planning.reading import Token
from relay.planning.segmenting import Clause, word_of
from relay.planning.unclear import Unclear, shown
from relay.planning.words import CONDITIONS, NEGATIONS, QUESTIONS, TIMES

_ADVICE = "If it belongs to a message, put the message into quotation marks."


def refuse_turned_meaning(tokens: Sequence[Token]) -> None:
    """Refuse a prompt in which a word outside quotation marks negates, makes conditional or postpones.

    Such a word may turn round any part of the prompt; which one, grammar of this depth cannot tell.
    """
    for token in tokens:
        word = word_of(token)
        if word in NEGATIONS:
            raise Unclear(f"The prompt says {shown(token.text)}, so nothing is planned. {_ADVICE}")
        if word in CONDITIONS:
            raise Unclear(
                f"The prompt is conditional ({shown(token.text)}); only plain requests are planned. {_ADVICE}"
            )
        if word in TIMES:
            raise Unclear(f"The prompt names a time ({shown(token.text)}); steps run at once or not at all. {_ADVICE}")


def refuse_non_request(clause: Clause, verbs: frozenset[str]) -> None:
    """Refuse a clause that asks or tells rather than requests: it must begin with a known verb."""
    first = word_of(clause.tokens[0])
    asks = any(token.kind == "question" for token in clause.tokens) and not clause.polite
    if asks or first in QUESTIONS:
        raise Unclear("it is a question, not a request")
    if first not in verbs:
        raise Unclear(f"it does not begin with what to do ({shown(clause.tokens[0].text)} is no known verb)")
