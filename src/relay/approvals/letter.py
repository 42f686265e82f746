"""The mail about a request: plain text that shows what waits. It decides nothing and holds no secret."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from typing import Final

from relay.core.clock import MICROSECONDS, iso
from relay.store.approvals import ApprovalRow

MAX_SUMMARY: Final = 500
_POLICY: Final = policy.SMTP.clone(cte_type="7bit", utf8=True)


@dataclass(frozen=True, slots=True)
class Letterhead:
    """Who writes to whom, and the address under which people reach Relay (None: not known)."""

    sender: str
    recipients: Sequence[str]
    public_url: str | None


def write_letter(head: Letterhead, request: ApprovalRow, summary: str | None) -> bytes:
    """Return the message (RFC 5322, CRLF), the same bytes for the same request: a second copy shows that it is one.

    ``summary`` is what the action itself says it would do, its secrets masked. What a requester has written into it
    cannot end its line, hide characters or turn its direction.
    """
    message = EmailMessage(policy=_POLICY)
    message["From"] = _address(head.sender)
    message["To"] = tuple(map(_address, head.recipients))
    message["Subject"] = f"Approval needed: {request.action}"
    message["Date"] = format_datetime(datetime.fromtimestamp(request.created_at // MICROSECONDS, UTC))
    message["Message-ID"] = f"<{request.id}@{head.sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(_text(head, request, summary), cte="quoted-printable")
    return message.as_bytes(policy=_POLICY)


def one_line(text: str, most: int = MAX_SUMMARY) -> str:
    """Return a text on one line: whatever is invisible, or would end the line or turn it, becomes a space."""
    visible = "".join(" " if unicodedata.category(char)[0] in "CZ" else char for char in text[: 2 * most])
    words = " ".join(visible.split())
    return words if len(words) <= most else words[: most - 1] + "…"


def _text(head: Letterhead, request: ApprovalRow, summary: str | None) -> str:
    shown = one_line(summary or "") or "(what it would do can be seen in Relay)"
    persons = "one person" if request.approvers == 1 else f"{request.approvers} persons"
    if request.other_person:
        persons += ", one of them without a part in the requester's key"
    where = f"{head.public_url or ''}/approvals/{request.id}"
    return "\n".join(
        [
            "A step waits for approval.",
            "",
            f"Action:     {request.action}",
            f"It would:   {shown}",
            f"Asked by:   {request.requester_id}, workspace {request.workspace_id}",
            f"Why:        {one_line(request.reason)}",
            f"Needed:     {persons}",
            f"Expires:    {iso(request.expires_at)}",
            f"Digest:     {request.digest}",
            "",
            "Look at it with a key that has the scope approvals:decide:",
            f"  {where}",
            "",
            "This address shows the request; it decides nothing. To decide, send the digest",
            "above to the same address followed by /approve or /deny.",
            "",
        ]
    )


def _address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(username=local, domain=domain)
