"""Places for attempts under way, shared between workspaces so that none of them can take them all."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Places:
    """``number`` places. A workspace gets one while it holds fewer than are free, so that a newcomer always finds one:
    alone it gets half of them, and of several that want more each gets the same.

    Whoever waits is served before those of workspaces that hold more, within a workspace in order.
    """

    def __init__(self, number: int) -> None:
        if number < 1:
            raise ValueError("there must be a place")
        self._free = number
        self._held: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for a place."""
        return bool(self._waiting)

    @asynccontextmanager
    async def place(self, workspace_id: str) -> AsyncIterator[None]:
        """Hold a place for a workspace, once there is one."""
        await self._take(workspace_id)
        try:
            yield
        finally:
            self._give_back(workspace_id)

    async def _take(self, workspace_id: str) -> None:
        if workspace_id not in self._waiting and self._may(workspace_id):
            self._grant(workspace_id)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(workspace_id, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back(workspace_id)
            else:
                self._leave(workspace_id, turn)
            raise

    def _give_back(self, workspace_id: str) -> None:
        self._free += 1
        self._held[workspace_id] -= 1
        if not self._held[workspace_id]:
            del self._held[workspace_id]
        self._serve()

    def _serve(self) -> None:
        while able := [workspace for workspace in self._waiting if self._may(workspace)]:
            chosen = min(able, key=self._held.__getitem__)
            line = self._waiting.pop(chosen)
            turn = line.popleft()
            if line:
                self._waiting[chosen] = line  # behind the others that hold as few
            if not turn.cancelled():
                self._grant(chosen)
                turn.set_result(None)

    def _leave(self, workspace_id: str, turn: "asyncio.Future[None]") -> None:
        line = self._waiting.get(workspace_id)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._waiting[workspace_id]

    def _may(self, workspace_id: str) -> bool:
        return self._held[workspace_id] < self._free

    def _grant(self, workspace_id: str) -> None:
        self._free -= 1
        self._held[workspace_id] += 1
