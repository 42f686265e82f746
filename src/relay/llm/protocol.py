"""The one door to language models, as planner and chat see it."""

from collections.abc import AsyncIterator
from typing import Protocol

from relay.llm.messages import Answer, Payer, Piece, Question


class Models(Protocol):
    """Asks the models of an installation.

    Every question goes the same way: secrets are taken out of whatever it holds, its greatest price is booked on
    the budgets of its payer before it is sent, its digest and that of the answer are recorded, and what it took less
    than booked is given back. The model of the fallback is asked where the first one does not answer.
    """

    @property
    def name(self) -> str | None:
        """The model that is asked first, None where the installation has none: then nothing may be asked."""
        ...

    async def ask(self, question: Question, payer: Payer) -> Answer:
        """Return the answer as a whole.

        :class:`~relay.core.problem.ModelUnavailable` (503) when no model answers in time or at all, when as many
        questions wait as may, or after too many failures in a row; :class:`~relay.core.problem.SpendingExhausted`
        (429) when a budget has too little left. Nothing else, whatever the other side sends; only where the database
        takes neither booking nor record, that is :class:`~relay.store.writer.StoreUnavailable`.
        """
        ...

    def stream(self, question: Question, payer: Payer) -> AsyncIterator[Piece | Answer]:
        """Yield the pieces of the answer's text as they come in, and the whole answer last. Problems as above.

        After the first piece no other model is asked: a stream that breaks off raises. Closing the iterator ends the
        request, and what was booked stays booked unless the service has said what it took.
        """
        ...
