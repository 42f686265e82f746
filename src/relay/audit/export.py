"""Exporting the whole log as JSON Lines that verify by themselves; see :mod:`relay.audit.offline` for the form."""

from collections.abc import AsyncIterator

from relay.audit.chain import ChainBroken, Walk, row_line
from relay.audit.heads import HeadKeeper
from relay.audit.notes import sign_head
from relay.audit.offline import head_line, header_line
from relay.audit.rows import rows_between, snapshot
from relay.store.reader import Reader


async def export_log(reader: Reader, heads: HeadKeeper) -> AsyncIterator[str]:
    """Yield the export in pieces of whole lines: every event up to this moment, and the head signed over them.

    Nothing is signed unless every row follows from the one before and the log continues what was signed earlier:
    :class:`~relay.audit.chain.ChainBroken` or :class:`~relay.audit.heads.HeadContradicted`, after which the pieces
    are not an export. Details are left out, since a copy of them could not be erased.
    """
    await heads.sign_now()
    end = await snapshot(reader)
    end.check()
    yield header_line(heads.signer.name, heads.signer.vkey) + "\n"
    walk = Walk()
    async for page in rows_between(reader, 0, end.size):
        for row in page:
            walk.follow(row)
        yield "".join(row_line(row) + "\n" for row in page)
    if (walk.size, walk.head) != (end.size, end.head):
        raise ChainBroken(walk.size + 1, "is missing")
    yield head_line(sign_head(heads.signer, walk.size, walk.head)) + "\n"
