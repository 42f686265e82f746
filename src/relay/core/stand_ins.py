"""Checking parameters whose values are not known yet: each reference is given a stand-in that its place accepts.

So a step with references is validated and considered like any other, before anything runs. What the earlier step
really returns goes through the whole gate again when the step's turn comes.
"""

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from relay.core.pointer import pointer_of
from relay.core.problem import Invalid
from relay.core.references import Path, Reference, substitute

_TEXTS: Final[tuple[Any, ...]] = ("result", "result@example.invalid", "https://example.invalid/", "", "1")
_OTHERS: Final[tuple[Any, ...]] = (0, 1, 0.5, True, {}, [], ["result"], ["result@example.invalid"], None)


def stand_in(
    params: dict[str, Any], references: Sequence[Reference], model: type[BaseModel], prefix: str
) -> dict[str, Any]:
    """Return ``params`` with a stand-in for each reference, such that ``model`` accepts them.

    :class:`~relay.core.problem.Invalid`, pointers below ``prefix``, when something else is wrong, or when a
    reference stands where no stand-in fits.
    """
    choices = {reference.path: _TEXTS if reference.as_text else _TEXTS + _OTHERS for reference in references}
    chosen = dict.fromkeys(choices, 0)
    # Each round moves every reference that is to blame, so the longest list of choices bounds the rounds well enough.
    for _ in range(2 * len(_TEXTS + _OTHERS)):
        filled = substitute(params, lambda reference: choices[reference.path][chosen[reference.path]])
        try:
            model.model_validate(filled)
        except ValidationError as error:
            for path in _to_blame(error, list(chosen), prefix):
                chosen[path] += 1
                if chosen[path] == len(choices[path]):
                    raise _refused(path, prefix) from None
        else:
            return filled
    raise _refused(references[0].path, prefix)


def _to_blame(error: ValidationError, paths: Sequence[Path], prefix: str) -> set[Path]:
    """Return the references that caused the errors; Invalid when one of the errors has another cause."""
    blamed: set[Path] = set()
    others: list[dict[str, str]] = []
    for item in error.errors(include_url=False, include_context=False, include_input=False):
        causes = {path for path in paths if _touches(item["loc"], path)}
        blamed |= causes
        if not causes:
            others.append({"pointer": prefix + pointer_of(item["loc"]), "message": item["msg"]})
    if others:
        raise Invalid("The request is not valid; see errors.", errors=others[:20])
    return blamed


def _touches(location: Path, path: Path) -> bool:
    """Say whether an error lies at a reference, below it, or at a place that holds it.

    Pydantic puts the names of union members between the parts of a location, so the parts of the path need not be
    neighbours in it. An error of the whole (an empty location) is never a reference's.
    """
    rest = iter(location)
    below = all(part in rest for part in path)
    return below or (0 < len(location) < len(path) and path[: len(location)] == location)


def _refused(path: Path, prefix: str) -> Invalid:
    message = "The result of another step cannot be used here."
    return Invalid(message, errors=[{"pointer": prefix + pointer_of(path), "message": message}])
