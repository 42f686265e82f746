"""What a check is, and what comes of it."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

Subject = TypeVar("Subject")
Severity = Literal["fail", "warn"]
Status = Literal["pass", "fail", "warn", "skip"]

log = logging.getLogger("relay.doctor")


class Unseen(Exception):
    """What a check looks at could not be looked at. The text says why."""


@dataclass(frozen=True, slots=True)
class Check(Generic[Subject]):
    """One question about an installation.

    ``title`` says what holds when the check passes, ``fix`` what to do when it does not. ``judge`` is pure: it returns
    None when the title holds, else one sentence that says what is wrong and holds nothing secret; :class:`Unseen` when
    the facts that it needs are not there. ``severity`` says what a sentence means: ``fail`` is a reason not to expose
    the installation, ``warn`` one to think.
    """

    name: str
    looks_at: str
    title: str
    severity: Severity
    judge: Callable[[Subject], str | None]
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check. ``detail`` is empty and ``fix`` of no use when it passed."""

    name: str
    looks_at: str
    title: str
    status: Status
    detail: str
    fix: str


@dataclass(frozen=True, slots=True)
class Report:
    """What came of all checks, in the order of the registry."""

    findings: tuple[Finding, ...]

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(finding.status == status for finding in self.findings)

    def ok(self, *, strict: bool = False) -> bool:
        """Say whether nothing failed; with ``strict`` whether nothing was warned about either."""
        return not self.count("fail") and not (strict and self.count("warn"))


def judge_all(checks: Iterable[Check[Subject]], subject: Subject) -> Report:
    """Put every check to the same facts."""
    return Report(tuple(_judge(check, subject) for check in checks))


def _judge(check: Check[Subject], subject: Subject) -> Finding:
    status: Status
    try:
        wrong = check.judge(subject)
        status, detail = ("pass", "") if wrong is None else (check.severity, wrong)
    except Unseen as reason:
        status, detail = "skip", str(reason)
    except Exception as error:  # a defect in one check must neither pass for health nor hide what the others find
        log.error("the check %s broke: %s", check.name, type(error).__name__)
        status = "fail"
        detail = f"the check itself broke ({type(error).__name__})"
    return Finding(check.name, check.looks_at, check.title, status, detail, check.fix)


MOST_NAMED: Final = 3


def some(names: Sequence[str]) -> str:
    """Return the first few of many names, and how many there are beside."""
    shown = ", ".join(names[:MOST_NAMED])
    rest = len(names) - MOST_NAMED
    return f"{shown} and {rest} more" if rest > 0 else shown
