"""How an effect on the outside world can end badly; what a connector raises and the gate records."""


class EffectError(Exception):
    """An effect that did not succeed. ``code`` is a stable slug; ``detail`` is a sentence for the caller.

    ``detail`` never holds a secret or more than a short, cleaned excerpt of what the other side said.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class EffectRefused(EffectError):
    """Nothing happened outside: the other side said no, or no byte of the request was written."""


class EffectUnsent(EffectRefused):
    """Nothing happened outside, and nobody said no: no byte of the request left. To try again cannot do it twice."""


class EffectForbidden(EffectError):
    """Nothing happened outside: egress does not connect to this destination."""


class EffectUnknown(EffectError):
    """Bytes left and no answer came back that settles the matter: the effect may have happened."""
