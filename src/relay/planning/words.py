"""The words that the local planner knows, and how it compares words. Data, not rules."""

from functools import lru_cache
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> tuple[tuple[str, ...], ...]:
    return tuple(sorted((tuple(phrase.split()) for phrase in text.split(", ")), key=len, reverse=True))


HTTP_METHODS: Final = _words("GET HEAD POST PUT PATCH DELETE OPTIONS")

# Verbs that begin a request. "and" or a comma before one of them begins another step.
VERBS: Final = _words(
    "call check create curl delete deliver dispatch download e-mail echo email fetch forward get head hit load mail "
    "make message notify open options patch perform ping post publish put query read record repeat request "
    "retrieve run save send shoot store submit tell trigger update upload visit write"
)
# Verbs of retrieval: with no body they mean the HTTP method GET.
RETRIEVALS: Final = _words("call check curl download fetch hit load open ping query read request retrieve visit")

# One concept per line: a word counts as the first of its line, so that "fetch" finds an action named "request".
_CONCEPT: Final = {
    word: group.split()[0]
    for group in (
        "email e-mail mail",
        "send deliver dispatch shoot forward message write tell notify submit",
        "post publish",
        "request call check curl download fetch get hit load open ping query read retrieve visit",
        "save keep record store",
        "webhook hook",
        "echo repeat",
        "http https",
        "json payload",
        "url endpoint link uri",
    )
    for word in group.split()
}

# Words that may stand in a step without changing what it asks for: in every step, and beside a parameter of a
# certain shape. Whatever is on neither list, nor a word of the action's own, makes the planner decline.
GLUE: Final = _words("a an the this that following to with and & at via by using as")
MESSAGE_GLUE: Final = _words("message note mail email e-mail send write tell notify shoot")
REQUEST_GLUE: Final = _words("request http https call url address endpoint page api body send make method perform")

# The words that an unannounced value may follow. After another one ("for a@b.example", "via https://…") it is meant
# for something else than to be the recipient or the destination.
BEFORE: Final = {
    "address": _words("to and &") | MESSAGE_GLUE,
    "contact": _words("to and &") | MESSAGE_GLUE,
    "url": _words("to at from the") | REQUEST_GLUE,
    "quote": _words("with"),
    "json": _words("a the this that following with and as using") | REQUEST_GLUE,
}

NEGATIONS: Final = _words(
    "not no never don't dont doesn't didn't can't cannot won't wouldn't shouldn't mustn't without avoid stop cancel "
    "undo recall unsend refrain neither nor none nothing nobody except instead abort skip ignore forget"
)
CONDITIONS: Final = _words(
    "if unless when whenever until once suppose supposing assuming provided otherwise else whether might maybe "
    "perhaps imagine hypothetically pretend"
)
TIMES: Final = _words(
    "tomorrow tonight later every monday tuesday wednesday thursday friday saturday sunday hourly nightly weekly"
)
QUESTIONS: Final = _words("what who whom whose why how which where did does was were has have had is are should")

# Ways of asking that add nothing, at the beginning and at the end of a step.
OPENINGS: Final = _phrases(
    "please, kindly, now, also, first, firstly, secondly, thirdly, next, finally, lastly, and, then, so, just, hey, "
    "hi, hello, relay, ok, okay, can you, could you, would you, will you, i want to, i want you to, i need to, "
    "i need you to, i would like to, i would like you to, i'd like to, i'd like you to, let's, go ahead and"
)
POLITE_QUESTIONS: Final = frozenset({("can", "you"), ("could", "you"), ("would", "you"), ("will", "you")})
CLOSINGS: Final = _words("please thanks thank you cheers now")


@lru_cache(maxsize=4096)
def plain_word(word: str) -> str:
    """Return ``word`` folded for comparison: lower case, straight apostrophes, plurals undone.

    Only plurals: a past tense is left alone on purpose, since "emailed" reports something and asks for nothing.
    """
    folded = word.casefold().replace("’", "'")
    if len(folded) > 4 and folded.endswith("s") and not folded.endswith(("ss", "us", "is", "'s", "https")):
        return folded[:-1]
    return folded


@lru_cache(maxsize=4096)
def concept(word: str) -> str:
    """Return the concept that ``word`` stands for: the first word of its group, or the plain word itself."""
    folded = plain_word(word)
    return _CONCEPT.get(folded, folded)
