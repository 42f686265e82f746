from itertools import pairwise
from typing import Any

import pytest

from relay.audit import log as log_module
from relay.audit.erase import NothingToErase, erase_details
from relay.audit.log import AuditLog, Entry, Filters
from relay.audit.trust import Trust
from relay.audit.verify import verify_log
from relay.store.target import Target
from tests.audit_kit import Kit, all_rows, open_kit, own, sample


def log_of(kit: Kit) -> AuditLog:
    return AuditLog(kit.database.reader, kit.envelopes)


async def listed(kit: Kit, workspace: str = "default", *, limit: int = 50, **fields: Any) -> list[Entry]:
    """Everything that the filters let through, page by page."""
    found: list[Entry] = []
    cursor = None
    for _ in range(100):
        page = await log_of(kit).of(workspace).page(Filters(**fields), limit=limit, cursor=cursor)
        assert len(page.entries) <= limit
        found.extend(page.entries)
        cursor = page.next_cursor
        if cursor is None:
            return found
    raise AssertionError("the pages do not end")


@pytest.mark.parametrize("limit", [1, 3, 7, 200])
async def test_pages_are_newest_first_without_gap_or_repetition(target: Target, limit: int) -> None:
    async with open_kit(target) as kit:
        drafts = [sample(number) for number in range(7)]
        for draft in drafts:
            await kit.record(draft)
        found = await listed(kit, limit=limit)
    assert [entry.event.id for entry in found] == [draft.id for draft in reversed(drafts)]
    assert all(newer.event.seq > older.event.seq for newer, older in pairwise(found))


async def test_what_was_recorded_is_what_is_read(target: Target) -> None:
    draft = sample(
        tag="gate:action:outcome", target="att_1", action="email.send", decision="allow", digest="d" * 64,
        outcome="failed", details={"reason": "refused"},
    )  # fmt: skip
    async with open_kit(target) as kit:
        await kit.record(draft)
        (entry,) = await listed(kit)
    assert entry.details == {"reason": "refused"} and entry.details_state == "shown"
    for name in ("id", "occurred_at", "workspace_id", "principal", "request_id", "tag", "target", "action", "decision"):
        assert getattr(entry.event, name) == getattr(draft, name)
    assert (entry.event.digest, entry.event.outcome) == (draft.digest, draft.outcome)


async def test_another_workspaces_rows_and_the_installations_never_appear(target: Target) -> None:
    async with open_kit(target) as kit:
        for workspace in ("default", "other", "", "default2", "Default"):
            await kit.record(sample(1, workspace_id=workspace, details={"of": workspace}))
        for workspace in ("default", "other"):
            cases: tuple[dict[str, Any], ...] = (
                {},
                {"principal": "key_1"},
                {"q": "key"},
                {"tag": "gate:*"},
                {"since": 0},
            )
            for fields in cases:
                (entry,) = await listed(kit, workspace, **fields)
                assert entry.event.workspace_id == workspace and entry.details == {"of": workspace}
        assert await listed(kit, "nobody") == []
        with pytest.raises(ValueError):
            log_of(kit).of("")
        everything = await log_of(kit).everything().page(Filters())
        assert len(everything.entries) == 5


async def test_a_cursor_of_another_workspace_opens_nothing_of_it(target: Target) -> None:
    async with open_kit(target) as kit:
        for _ in range(3):
            await kit.record(sample(1, workspace_id="other"), sample(2))
        cursor = (await log_of(kit).of("other").page(Filters(), limit=1)).next_cursor
        page = await log_of(kit).of("default").page(Filters(), cursor=cursor)
        assert {entry.event.workspace_id for entry in page.entries} == {"default"}


async def test_each_filter_lets_through_what_it_names(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(
            sample(1, tag="gate:action:intent", action="email.send", target="att_100%"),
            sample(2, tag="gate:action:outcome", action="email.send", outcome="succeeded", target="att_100x"),
            sample(3, tag="gate:action:outcome", action="http.request", outcome="failed", decision="allow"),
            sample(4, tag="identity:key:created", target="KEY_New_Ünicode"),
        )

        async def who(**fields: Any) -> list[str]:
            return sorted(entry.event.principal for entry in await listed(kit, **fields))

        assert await who() == ["key_1", "key_2", "key_3", "key_4"]
        assert await who(tag="gate:action:outcome") == ["key_2", "key_3"]
        assert await who(tag="gate:action:*") == ["key_1", "key_2", "key_3"]
        assert await who(tag="gate:action:") == []
        assert await who(tag="gate_action:*") == [] and await who(tag="%*") == []
        assert await who(tag="*") == await who()
        assert await who(principal="key_2") == ["key_2"]
        assert await who(action="email.send") == ["key_1", "key_2"]
        assert await who(outcome="failed") == ["key_3"]
        assert await who(action="email.send", outcome="succeeded") == ["key_2"]
        assert await who(action="email.send", outcome="failed") == []
        assert await who(q="EMAIL.SEND") == ["key_1", "key_2"]
        assert await who(q="key_new") == ["key_4"] and await who(q="Ünicode") == ["key_4"]
        assert await who(q="100%") == ["key_1"] and await who(q="key_") == ["key_1", "key_2", "key_3", "key_4"]
        assert await who(q="e%l") == [] and await who(q="att/100") == []
        assert await who(q="allow") == ["key_3"]
        assert await who(q="default") == [], "the workspace's own name is not searched"


async def test_since_is_inclusive_and_until_exclusive(target: Target) -> None:
    async with open_kit(target) as kit:
        drafts = [sample(number) for number in range(4)]
        for draft in drafts:
            await kit.record(draft)
        times = [draft.occurred_at for draft in drafts]
        assert len(set(times)) == 4
        found = await listed(kit, since=times[1], until=times[3])
        assert [entry.event.id for entry in found] == [drafts[2].id, drafts[1].id]


async def test_a_filter_that_matches_nothing_looks_at_a_bounded_number_of_rows(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "SCAN_ROWS", 4)
    async with open_kit(target) as kit:
        for number in range(11):
            await kit.record(sample(number), sample(number, workspace_id="other"))
        page = await log_of(kit).of("default").page(Filters(principal="key_0"))
        assert page.entries == () and page.next_cursor is not None
        assert [entry.event.principal for entry in await listed(kit, principal="key_0")] == ["key_0"]
        assert await listed(kit, principal="key_99") == []
        assert len(await listed(kit, q="key", limit=3)) == 11
        assert len((await log_of(kit).of("default").page(Filters())).entries) == 11


@pytest.mark.parametrize("limit", [0, 201, -1])
async def test_a_limit_outside_of_its_bounds_is_refused(target: Target, limit: int) -> None:
    async with open_kit(target) as kit:
        with pytest.raises(ValueError):
            await log_of(kit).of("default").page(Filters(), limit=limit)


async def test_erased_details_are_gone_and_the_erasing_is_an_event(target: Target) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample(1, details={"mail": "a@b.example"}), sample(2))
        with_details, without = (row[1] for row in all_rows(target))
        await erase_details(kit.database, with_details, principal="operator", request_id="req_e")
        erasing, plain, erased = await listed(kit)
        assert (erased.details, erased.details_state) == (None, "erased") and erased.event.commitment
        assert (plain.details, plain.details_state) == (None, "none")
        event = erasing.event
        assert (event.tag, event.target, event.principal) == ("audit:details:erased", with_details, "operator")
        found = await verify_log(kit.database.reader, Trust(), envelopes=kit.envelopes)
        assert (found.ok, found.size, found.details_erased) == (True, 3, 1)
        for again in (with_details, without, "aud_nobody"):
            with pytest.raises(NothingToErase):
                await erase_details(kit.database, again, principal="operator", request_id="req_e")
    assert len(all_rows(target)) == 3


async def test_details_that_do_not_fit_are_called_unreadable(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    async with open_kit(target) as kit:
        await kit.record(sample(1, details={"n": 1}), sample(2, details={"n": 2}))
        own(target, "UPDATE envelopes SET body = (SELECT max(body) FROM envelopes)")
        states = sorted(entry.details_state for entry in await listed(kit))
        assert states == ["shown", "unreadable"]
    assert "cannot be read" in caplog.text
