"""The policies of workspaces, in versions: put, returned to, read, and handed to whoever decides."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from relay.audit.record import event
from relay.core.clock import now
from relay.core.principal import Principal
from relay.core.problem import Conflict, Denied, Invalid, NotFound, Unauthenticated
from relay.policy.checked import Checked, Texts, digest_of, refusal
from relay.policy.default import DEFAULT_TEXT
from relay.policy.schema import CatalogSchema
from relay.policy.source import DEFAULT_ID, Active
from relay.policy.text import Problem
from relay.store.api_keys import ApiKeyRepository
from relay.store.cache import GenerationCache
from relay.store.database import Database
from relay.store.policies import Head, PolicyRepository, VersionRow
from relay.store.writer import Tx, Unit

WORKSPACE_ID: Final = "workspace"
"""The policy id of decisions that a workspace's own policies made."""
DEFAULT_VERSION: Final = 0
MAX_VERSION: Final = 1_000_000_000
MAX_COMMENT: Final = 500
_TOLD: Final = 5
_DIFFERS: Final = Problem(1, 1, "the stored text is not the one that was put in: its digest differs")

log = logging.getLogger("relay.policy")


@dataclass(frozen=True, slots=True)
class State:
    """What holds in a workspace: the active version with what checking it finds today, and the newest number."""

    active: VersionRow
    latest: int
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]


class PolicyVersions:
    """Every workspace's policies. A :class:`~relay.policy.source.PolicySource`.

    What is active is kept in memory as long as the database's generation stands still; while that is unknown every
    answer comes from the database. :class:`~relay.store.writer.StoreUnavailable` from any method when the database is
    needed and does not answer. With ``replay_required`` a version is activated only within an hour of a replay of
    exactly its text.
    """

    def __init__(self, database: Database, schema: CatalogSchema, *, replay_required: bool = False) -> None:
        self._database = database
        self._replay_required = replay_required
        self._texts = Texts(schema)
        self._active: GenerationCache[Active] = GenerationCache(database.generation)
        self._told: set[tuple[str, int]] = set()
        self._default = VersionRow(
            DEFAULT_VERSION, DEFAULT_TEXT, digest_of(DEFAULT_TEXT), "The default that comes with Relay.", "relay", 0
        )

    async def active(self, workspace_id: str) -> Active:
        """Return the policies that decide in the workspace.

        A stored text that does not check any more, is damaged or is gone opens nothing: the answer is ``broken``.
        """
        found = self._active.get(workspace_id)
        if found is None:
            # Read before the row is: a change in between moves it on, and the entry is not kept.
            generation = self._database.generation.current()
            head, row = await PolicyRepository(workspace_id).active(self._database.reader)
            found = await self._ready(workspace_id, head, row)
            self._active.put(workspace_id, found, generation)
        return found

    async def state(self, workspace_id: str) -> State:
        """Return what holds in the workspace now, from the database."""
        head, row = await PolicyRepository(workspace_id).active(self._database.reader)
        if head.active == DEFAULT_VERSION:
            row = self._default
        elif row is None:
            return State(VersionRow(head.active, "", "", "", "", 0), head.latest, (_DIFFERS,), ())
        checked = await self._checked(row)
        return State(row, head.latest, checked.problems, checked.warnings)

    async def get(self, workspace_id: str, version: int) -> VersionRow:
        """Return a version of the workspace, 0 being the default; 404 when there is none of this number."""
        if version == DEFAULT_VERSION:
            return self._default
        found = None
        if 0 < version <= MAX_VERSION:
            found = await PolicyRepository(workspace_id).get(self._database.reader, version)
        return found or _no_such_version()

    async def page(self, workspace_id: str, *, before: int | None, limit: int) -> list[VersionRow]:
        """Return versions of the workspace, newest first, those below ``before`` if it is given."""
        return await PolicyRepository(workspace_id).page(self._database.reader, before, limit)

    async def put(
        self,
        author: Principal,
        workspace_id: str,
        text: str,
        *,
        comment: str = "",
        expected_version: int | None = None,
        activate: bool = True,
        request_id: str,
    ) -> tuple[VersionRow, tuple[str, ...]]:
        """Append a version, activate it unless told otherwise, and return it with the warnings about it.

        Refused: 403 for who is no person, 401 for a key that has ended meanwhile, 404 for a workspace that does not
        exist, 422 for a text that does not check, 409 when ``expected_version`` is not the newest any more, or when a
        replay is demanded and there was none.
        """
        require_person(author)
        digest, comment = digest_of(text), checked_comment(comment)
        checked = await self._texts.checked(text, digest)
        if checked.policies is None:
            raise refusal(checked.problems)
        at, policies = now(), PolicyRepository(workspace_id)

        def unit(tx: Tx) -> VersionRow:
            head = _locked(tx, author, policies, at)
            if expected_version is not None and expected_version != head.latest:
                raise Conflict(
                    f"The newest version is {head.latest}, not {expected_version}: somebody has changed the policies "
                    "since you read them.",
                    version=head.latest,
                )
            if activate:
                self._require_replay(tx, policies, digest, at)
            row = VersionRow(head.latest + 1, text, digest, comment, author.id, at)
            policies.add(tx, row)
            moved = Head(row.version if activate else head.active, row.version)
            policies.move(tx, moved, by=author.id, at=at)
            _note(tx, "created", author, workspace_id, row, comment, request_id)
            if activate:
                _note(tx, "activated", author, workspace_id, row, comment, request_id, before=head.active)
            return row

        return await self._change(unit), checked.warnings

    async def activate(
        self,
        author: Principal,
        workspace_id: str,
        version: int,
        *,
        comment: str = "",
        expected_version: int | None = None,
        request_id: str,
    ) -> VersionRow:
        """Let an earlier or later version hold, 0 being the default, and return it.

        Refused as :meth:`put`; ``expected_version`` is the one that must be active until then. 404 when there is no
        such version, 422 when it does not check any more.
        """
        require_person(author)
        comment = checked_comment(comment)
        row = await self.get(workspace_id, version)
        checked = await self._checked(row)
        if checked.policies is None:
            raise refusal(checked.problems, "/version")
        at, policies = now(), PolicyRepository(workspace_id)

        def unit(tx: Tx) -> None:
            head = _locked(tx, author, policies, at)
            if expected_version is not None and expected_version != head.active:
                raise Conflict(
                    f"Version {head.active} is active, not {expected_version}: somebody has changed it since.",
                    version=head.active,
                )
            self._require_replay(tx, policies, row.digest, at)
            policies.move(tx, Head(version, head.latest), by=author.id, at=at)
            _note(tx, "activated", author, workspace_id, row, comment, request_id, before=head.active)

        await self._change(unit)
        return row

    async def _ready(self, workspace_id: str, head: Head, row: VersionRow | None) -> Active:
        if head.active == DEFAULT_VERSION:
            row = self._default
        checked = await self._checked(row) if row is not None else Checked(None, (_DIFFERS,))
        policy_id = DEFAULT_ID if head.active == DEFAULT_VERSION else WORKSPACE_ID
        if checked.policies is not None:
            return Active(policy_id, head.active, checked.policies)
        nothing = await self._texts.checked("", digest_of(""))
        if nothing.policies is None:
            raise RuntimeError("the empty policy text does not check")
        self._tell(workspace_id, head.active, checked.problems)
        broken = (
            f"Nothing is allowed: version {head.active} of this workspace's policies does not check any more. A person "
            "who may manage policies sees what is wrong with it at GET /policies."
        )
        return Active(policy_id, head.active, nothing.policies, broken)

    async def _checked(self, row: VersionRow) -> Checked:
        if digest_of(row.text) != row.digest:
            return Checked(None, (_DIFFERS,))
        return await self._texts.checked(row.text, row.digest)

    def _tell(self, workspace_id: str, version: int, problems: tuple[Problem, ...]) -> None:
        if (workspace_id, version) not in self._told:
            self._told.add((workspace_id, version))
            told = "; ".join(f"line {found.line}, column {found.column}: {found.reason}" for found in problems[:_TOLD])
            log.error("workspace %s may do nothing: version %d of its policies: %s", workspace_id, version, told)

    def _require_replay(self, tx: Tx, policies: PolicyRepository, digest: str, at: int) -> None:
        if self._replay_required and not policies.replayed(tx, digest, at):
            raise Conflict(
                "This text must be replayed before it is activated, over all decisions of the days that are asked for "
                "and no longer than an hour ago: POST /policies/replay, or relay policy replay.",
                digest=digest,
            )

    async def _change(self, unit: Unit[Any]) -> Any:
        """Run a unit that changes what is active; the caches of this process are void when this returns."""
        # A caller that hangs up must not leave this process with policies that hold no more.
        return await asyncio.shield(asyncio.create_task(self._write_and_void(unit)))

    async def _write_and_void(self, unit: Unit[Any]) -> Any:
        try:
            return await self._database.writer.run(unit)
        finally:  # also when it failed: the change may have become durable without an answer
            self._database.generation.changed()


def require_person(author: Principal) -> None:
    """Refuse whoever is no person (403): what an agent may do must not be the agent's to decide."""
    if author.kind != "person":
        raise Denied("Only a person can change policies.")


def checked_comment(comment: str) -> str:
    """Return a comment; 422 beyond 500 characters or with any that a terminal would obey instead of show."""
    if len(comment) > MAX_COMMENT or not comment.isprintable():
        message = f"At most {MAX_COMMENT} printable characters, in one line."
        raise Invalid(message, errors=[{"pointer": "/comment", "message": message}])
    return comment


def _locked(tx: Tx, author: Principal, policies: PolicyRepository, at: int) -> Head:
    if author.auth_method == "api_key":
        own = ApiKeyRepository(tx, author.workspace_id).find(author.credential_id)
        if own is None or not own.lives(at):
            raise Unauthenticated
    head = policies.lock(tx)
    if head is None:
        raise NotFound("There is no such workspace.")
    return head


def _no_such_version() -> NoReturn:
    raise NotFound("There is no such version.")


def _note(
    tx: Tx, what: str, author: Principal, workspace_id: str, row: VersionRow, comment: str, request_id: str, **more: Any
) -> None:
    tx.record(
        event(
            f"policy:version:{what}",
            workspace_id=workspace_id,
            principal=author.id,
            request_id=request_id,
            target=f"policies@{row.version}",
            digest=row.digest,
            details={
                "author": author.id,
                "version": row.version,
                "digest": row.digest,
                "comment": comment,
                **more,
            },
        )
    )
