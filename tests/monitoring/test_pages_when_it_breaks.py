"""What is neglected, used as never before or broken wakes somebody, too: the alerts that no attack from outside raises.

As in `test_pages_somebody.py`: a real Relay, Prometheus and Alertmanager, rules from the shipped templates.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.broken_world import LAST_TRY, Broken, Moody, mend, open_broken
from tests.process import eventually
from tests.watched_world import going_on

NEGLECTED = ("SecretOverdue", "DoctorFailing", "AuditVerificationOverdue")


@pytest.mark.timeout(560)
async def test_each_breakage_is_told_and_taken_back(tmp_path: Path, debian: Callable[[str, str], None]) -> None:
    debian("prometheus", "prometheus")
    debian("prometheus-alertmanager", "prometheus-alertmanager")
    async with open_broken(tmp_path) as (world, moody):
        await world.all_told(dict.fromkeys(NEGLECTED, world.watched_since))
        await something_is_unusual(world)
        await models_fail_and_are_dear(world, moody)
        await the_database_takes_no_writes(world)
        await the_database_is_damaged(world)
        await it_is_mended(world)
        assert world.pager.refused == []
        for name, (took, promise) in sorted(world.measured.items()):
            print(f"{name}: {took:.1f} s, promised {promise:.0f} s")


async def something_is_unusual(world: Broken) -> None:
    """A key does what it never did, and far more of it; policies break; callers are slow; a delivery is given up."""
    began = time.monotonic()
    for _ in range(8):
        assert (await world.habitual.execute("relay.echo", {"message": "never before"})).status == 200
    await policies_break(world)
    delivery = await world.failing_delivery()
    world.change(f"UPDATE webhook_deliveries SET attempts = {LAST_TRY} WHERE id = '{delivery}'")

    async def given_up() -> bool:
        return bool((await world.client.get(f"/webhooks/deliveries/{delivery}")).body["status"] == "dead")

    await eventually(given_up, 60)
    dead = time.monotonic()
    caused = dict.fromkeys(("UnusualUse", "FirstUse", "PolicyErrors"), began) | {"WebhookDeliveriesDead": dead}
    async with going_on(*[world.slow_caller] * 3):
        await world.all_told({**caused, "LatencyHigh": time.monotonic()})
    ceased = time.monotonic()
    await world.all_over(*caused, since=began)
    await world.all_over("LatencyHigh", since=ceased)


async def policies_break(world: Broken) -> None:
    """Give a workspace a policy that cannot be evaluated, and run into it."""
    key = await world.gateway.new_key("admin", workspace="elsewhere", kind="person")
    who = f"Bearer {key}"
    text = "forbid (principal, action, resource) when { context.recipient_count + 9223372036854775807 > 0 };"
    text += "\npermit (principal, action, resource);"
    put = await world.client.call("PUT", "/policies", {"text": text}, Authorization=who)
    assert put.status == 200, put.body
    params = {"to": ["you@example.org"], "subject": "Hello", "text": "Hello."}
    denied = await world.client.execute("email.send", params, Authorization=who)
    assert denied.status == 403, denied.body


async def models_fail_and_are_dear(world: Broken, moody: Moody) -> None:
    began = time.monotonic()
    async with going_on(*[world.chat] * 4):
        await world.all_told(dict.fromkeys(("ModelFailing", "ChatTurnsFailing"), began))
    dear = time.monotonic()
    moody.dear = True
    key = await world.gateway.new_key("chat")  # whose budget nothing was taken from yet
    async with going_on(*[partial(world.chat, key)] * 4):
        await world.all_told(dict.fromkeys(("ModelSpendingHigh", "ModelBudgetRefusals"), dear))
    ceased = time.monotonic()
    await world.all_over("ModelFailing", "ChatTurnsFailing", since=began)
    await world.all_over("ModelSpendingHigh", "ModelBudgetRefusals", since=ceased)


async def the_database_takes_no_writes(world: Broken) -> None:
    """Whatever must be recorded is refused, and what is due waits."""
    due = world.due(await world.failing_delivery())
    caused = dict.fromkeys(("AuditWriteErrors", "AuditSilence", "ErrorBudgetBurnSlow"), time.monotonic())
    with world.no_writes():
        async with going_on(*[world.preview] * 8, world.look):
            await world.all_told({**caused, "QueueOverdue": due})
    await world.all_over(*caused, "QueueOverdue", since=time.monotonic())


async def the_database_is_damaged(world: Broken) -> None:
    """A table is gone."""
    world.change("ALTER TABLE run_events RENAME TO run_events_aside")
    gone = time.monotonic()
    await world.told("MetricsMissing", gone)
    world.change("ALTER TABLE run_events_aside RENAME TO run_events")
    await world.over("MetricsMissing", gone)


async def it_is_mended(world: Broken) -> None:
    """The log is verified; the secret is exchanged and the file put away while Relay is stopped."""
    began = time.monotonic()
    async with going_on(world.verify, pause=1.0):
        await world.over("AuditVerificationOverdue", began)
    await world.gateway.stop()
    mend(world.gateway)
    await world.gateway.start()
    await world.all_over("SecretOverdue", "DoctorFailing", since=began)
