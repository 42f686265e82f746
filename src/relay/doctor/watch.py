"""A server's own look at itself: at start and each hour, off the path of requests."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from relay.doctor.check import Finding, Report, judge_all
from relay.doctor.facts import Facts
from relay.doctor.gather import Running, gather
from relay.doctor.registry import CHECKS, names
from relay.engine import Engine
from relay.house import House

EACH_SECONDS: Final = 3600.0

Told = Callable[[Report], None]

log = logging.getLogger("relay.doctor")


class Watch:
    """The newest findings of a running process. ``gather`` gives the facts; ``told`` hears of each new report."""

    def __init__(
        self,
        gather: Callable[[], Awaitable[Facts]],
        told: Told = lambda _: None,
        *,
        each: float = EACH_SECONDS,
    ) -> None:
        self._gather = gather
        self._told = told
        self._each = each
        self._task: asyncio.Task[None] | None = None
        self.report: Report | None = None

    @property
    def failing(self) -> dict[str, bool]:
        """Say of every check whether it fails; before the first look none does. Warnings are no failures."""
        found: tuple[Finding, ...] = self.report.findings if self.report is not None else ()
        failed = {finding.name for finding in found if finding.status == "fail"}
        return {name: name in failed for name in names()}

    async def start(self) -> None:
        """Look now, without keeping the caller waiting, and each hour from then on."""
        self._task = asyncio.create_task(self._go_on(), name="doctor")

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def look(self) -> Report:
        """Look once, and say in the log what fails that did not fail before."""
        before, first = self.failing, self.report is None
        self.report = judge_all(CHECKS, await self._gather())
        for finding in self.report.findings:
            if finding.status == "fail" and not before[finding.name]:
                # What stands so at start is no news: it is there to be asked for, and the gauge shows it.
                log.log(logging.INFO if first else logging.WARNING, "%s fails: %s", finding.name, finding.detail)
        self._told(self.report)
        return self.report

    async def _go_on(self) -> None:
        while True:
            try:
                await self.look()
            except Exception as error:  # the loop outlives a defect; a look that broke is one that found nothing new
                log.error("relay doctor could not look: %s", type(error).__name__)
            await asyncio.sleep(self._each)


def watch_of(house: House, engine: Engine) -> Watch:
    """Return a server's look at itself, which shows in ``relay_doctor_failing`` what fails."""
    gauge = house.metrics.gauge("relay_doctor_failing")

    def told(report: Report) -> None:
        for finding in report.findings:
            gauge.set(float(finding.status == "fail"), finding.name)

    running = Running(house.settings, house.verifier.look, engine.limits.answers)
    return Watch(lambda: gather(running), told)
