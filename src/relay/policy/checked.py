"""Policy texts and what checking them found, so that a text is compiled once and not once a request."""

import asyncio
from dataclasses import dataclass
from typing import Final

from relay.core.problem import Invalid
from relay.crypto.digest import sha256_hex
from relay.policy.check import CatalogSchema, PolicyRefused, Problem, compile_policies
from relay.policy.compiled import CompiledPolicies

MAX_TEXTS: Final = 512
_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a text: policies, or the problems for which it cannot be used."""

    policies: CompiledPolicies | None
    problems: tuple[Problem, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about what is allowed but surely not meant."""
        return self.policies.warnings if self.policies is not None else ()


def check(text: str, schema: CatalogSchema) -> Checked:
    """Compile a text or say what is wrong with it. It takes up to seconds of processor time: call it in a thread."""
    try:
        return Checked(compile_policies(text, schema))
    except PolicyRefused as refused:
        return Checked(None, tuple(refused.problems))


def digest_of(text: str) -> str:
    """Return the SHA-256 of a policy text, 64 lower-case hex digits; 422 for one that is not Unicode."""
    try:
        return sha256_hex(text.encode())
    except UnicodeEncodeError:
        raise refusal([Problem(1, 1, "the text is not Unicode: it holds lone surrogates")]) from None


def refusal(problems: "list[Problem] | tuple[Problem, ...]", pointer: str = "/text") -> Invalid:
    """Return the 422 for a text that does not check; every error has its line, its column and the reason."""
    errors = [
        {
            "pointer": pointer,
            "message": f"line {found.line}, column {found.column}: {found.reason}",
            "line": found.line,
            "column": found.column,
            "reason": found.reason,
        }
        for found in problems[:_SHOWN]
    ]
    return Invalid("The policies do not check; see errors.", errors=errors)


class Texts:
    """Checks each text once against one schema, in a thread; the oldest are forgotten.

    Whether a text checks depends on it and the schema alone, so nothing kept here ever goes stale.
    """

    def __init__(self, schema: CatalogSchema) -> None:
        self.schema = schema
        self._known: dict[str, asyncio.Task[Checked]] = {}

    async def checked(self, text: str, digest: str) -> Checked:
        """Return what checking a text with this digest found; those who ask at once wait for the same check."""
        task = self._known.get(digest)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            if len(self._known) >= MAX_TEXTS:
                del self._known[next(iter(self._known))]
            task = self._known[digest] = asyncio.create_task(asyncio.to_thread(check, text, self.schema))
        return await asyncio.shield(task)
