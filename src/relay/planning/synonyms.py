"""Words of business software that mean much the same, for finding actions by other words than their own.

Data, not rules. A group is a hint for ranking, never a reason to run anything: what the words find is only offered.
"""

from functools import lru_cache
from typing import Final

_GROUPS: Final = (
    # What is done
    "create add make new open register insert generate raise compose draft set_up setup start issue enter establish",
    "list show all overview enumerate display browse",
    "find search look lookup query locate",
    "get read fetch retrieve load view check see download pull open",
    "update change edit modify adjust set alter revise amend correct rename patch",
    "delete remove erase drop discard destroy trash purge clear wipe",
    "send deliver dispatch forward transmit email mail write shoot tell notify message",
    "post publish announce share broadcast",
    "cancel abort revoke withdraw void call_off terminate",
    "close resolve finish complete end done settle mark",
    "reopen restore undelete recover reactivate revive",
    "archive shelve",
    "assign allocate delegate hand give",
    "approve accept confirm authorise authorize ok sign grant",
    "reject decline deny refuse",
    "upload attach import put",
    "export dump extract",
    "copy duplicate clone",
    "move transfer relocate shift migrate",
    "merge combine join consolidate",
    "invite ask onboard",
    "schedule plan book reserve arrange",
    "pause suspend hold freeze disable deactivate block lock",
    "resume continue unpause enable activate unblock unlock",
    "pay charge bill collect",
    "refund reimburse repay return",
    "subscribe follow watch",
    "unsubscribe unfollow leave",
    "tag label categorise categorize",
    "comment reply respond answer remark",
    "track trace monitor follow",
    "start launch run trigger begin execute kick",
    "stop halt shut end kill",
    "restart reboot relaunch",
    "deploy release ship roll rollout",
    "print label",
    "count number many total",
    "compare diff difference",
    "convert translate transform",
    "verify validate check test",
    "reset clear renew",
    # What it is done to
    "customer client buyer account patron",
    "contact person people lead prospect",
    "user member account login colleague",
    "employee staff worker colleague",
    "invoice bill",
    "payment transaction charge",
    "order purchase",
    "product item article good",
    "stock inventory supply",
    "shipment parcel package delivery consignment",
    "ticket issue case request incident problem bug",
    "task todo job assignment reminder",
    "event meeting appointment call",
    "calendar diary agenda",
    "message note text dm",
    "channel room conversation group",
    "document doc file paper page",
    "folder directory",
    "spreadsheet sheet table workbook",
    "row line record entry",
    "repository repo project codebase",
    "branch fork",
    "pull_request merge_request pr",
    "server machine host instance vm",
    "database db",
    "backup snapshot copy",
    "deployment release rollout",
    "alert alarm warning notification",
    "dashboard board chart",
    "report summary statistic analytics figure",
    "campaign newsletter mailing",
    "subscriber recipient audience reader",
    "deal opportunity sale",
    "quote offer estimate proposal",
    "contract agreement",
    "candidate applicant",
    "vacation leave holiday absence pto",
    "salary wage pay payroll",
    "expense cost spending receipt",
    "vehicle car truck van",
    "room space hall",
    "reservation booking",
    "picture image photo",
    "video film clip recording",
    "price cost rate",
    "discount coupon voucher",
    "department team group",
    "address location place",
    "phone number telephone",
    "key secret credential token password",
    "webhook hook callback",
    "website site page",
    "url link endpoint address",
    "review rating feedback",
    "survey questionnaire poll form",
    "article post story blog",
    "course class lesson training",
    "student pupil learner",
    "patient",
    "property flat apartment house listing",
    "weather forecast",
)


@lru_cache(maxsize=1)
def concepts() -> dict[str, tuple[str, ...]]:
    """Return for each word the groups that it belongs to, each named by a number."""
    found: dict[str, list[str]] = {}
    for number, group in enumerate(_GROUPS):
        for word in group.split():
            found.setdefault(stem(word.replace("_", "")), []).append(f"~{number}")
    return {word: tuple(groups) for word, groups in found.items()}


@lru_cache(maxsize=16_384)
def stem(word: str) -> str:
    """Return an English word without its common endings, so that "invoices", "invoiced" and "invoice" are one."""
    plain = word.casefold().replace("’s", "").replace("'s", "")
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        if plain.endswith(ending) and len(plain) - len(ending) >= 3 and not plain.endswith(("ss", "us", "is")):
            plain = plain[: -len(ending)] + instead
            break
    if len(plain) > 3 and plain[-1] == plain[-2] and plain[-1] not in "lsz":
        plain = plain[:-1]
    return plain[:-1] if len(plain) > 3 and plain.endswith("e") else plain
