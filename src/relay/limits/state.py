"""What the limits of this process have done so far, for metrics and readiness."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class LimitState:
    """Counts since the process started.

    ``refused`` and ``observed`` count by policy: requests that got 429, and those that would have, had the mode not
    been to observe. ``unanswered`` counts checks that Redis did not answer, ``refused_blind`` the changes that were
    refused for it, ``counted_locally`` the reads that had a tenth of their limits instead. ``losses`` counts how often
    Redis went away.
    """

    refused: Counter[str] = field(default_factory=Counter)
    observed: Counter[str] = field(default_factory=Counter)
    unanswered: int = 0
    refused_blind: int = 0
    counted_locally: int = 0
    losses: int = 0
