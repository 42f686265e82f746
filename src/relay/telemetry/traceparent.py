"""``traceparent`` as W3C Trace Context level 2 defines it: read strictly, since anybody may send one."""

import re
from dataclasses import dataclass
from typing import Final

_FORM: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]{0,200})?")
_LENGTH: Final = 55
_FORBIDDEN_VERSION: Final = b"ff"
_SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span of somebody's trace. The ids are lower-case hexadecimal, 32 and 16 digits, never all zero."""

    trace_id: str
    span_id: str
    sampled: bool

    def text(self) -> str:
        """Return the header's value, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


def parse_traceparent(value: bytes | None) -> TraceParent | None:
    """Return the parent that a header names, None for anything that is not well-formed (section 3.2.2.3).

    A version above 00 may have more after its fourth part, which is ignored.
    """
    if value is None or len(value) < _LENGTH:
        return None
    found = _FORM.fullmatch(value)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _FORBIDDEN_VERSION or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    return TraceParent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & _SAMPLED))
