"""New requests: no more of them wait than may, and those who approve are told."""

from collections.abc import Callable
from typing import Final

from relay.approvals.notices import Notices
from relay.core.clock import MINUTE, now
from relay.core.problem import TooManyWaiting
from relay.store.approvals import ApprovalRepository, ApprovalRow
from relay.store.writer import Tx

RETRY_SECONDS: Final = 60
KNOWN_FOR: Final = MINUTE


class Intake:
    """What happens with a new request in the transaction of its attempt; :meth:`look` comes before the first write.

    ``per_key`` and ``per_workspace`` requests may be pending at once. The bound of a key is exact in each process. To
    count a workspace costs as much as there is, so it is counted when half of the room that was found then is taken,
    and once a minute: several processes together may go beyond by what they take meanwhile.
    """

    def __init__(self, notices: Notices, per_key: int, per_workspace: int, *, clock: Callable[[], int] = now) -> None:
        self._notices = notices
        self._per_key = per_key
        self._per_workspace = per_workspace
        self._clock = clock
        self._room: dict[str, tuple[int, int]] = {}

    def look(self, tx: Tx, request: ApprovalRow, account: str) -> None:
        """Refuse (429) while the requester, or the workspace, has as many requests pending as may be.

        ``account`` is whom the requester counts as: a child token's requests are its parent's.
        """
        if ApprovalRepository(request.workspace_id).waits_for(tx, account, self._per_key) >= self._per_key:
            raise _too_many(self._per_key, "key")
        if not self._has_room(tx, request.workspace_id):
            raise _too_many(self._per_workspace, "workspace")

    def take(self, tx: Tx, request: ApprovalRow) -> None:
        """Store the request and the mail about it."""
        ApprovalRepository(request.workspace_id).insert(tx, request)
        self._notices.add(tx, request)

    def _has_room(self, tx: Tx, workspace_id: str) -> bool:
        at = self._clock()
        left, until = self._room.get(workspace_id, (0, 0))
        if left <= 0 or until <= at:
            found = self._per_workspace - ApprovalRepository(workspace_id).waiting(tx, self._per_workspace)
            if found <= 0:
                return False
            left, until = (found + 1) // 2, at + KNOWN_FOR
        self._room[workspace_id] = (left - 1, until)
        return True


def _too_many(number: int, whose: str) -> TooManyWaiting:
    return TooManyWaiting(
        f"{number} requests of this {whose} wait for approval; no more may.", retry_after=RETRY_SECONDS
    )
