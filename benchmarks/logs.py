"""What JSON access logs cost: processor time of a request with and without them.

Both servers count metrics and neither traces; what a span costs while nobody traces is in both.
"""

from benchmarks.switched import compare

AIM = 1.10


def main(rounds: int, seconds: float) -> None:
    """Measure in turns and print the ratio."""
    off = ("ACCESS_LOG=false", {"ACCESS_LOG": "false"})
    on = ("JSON access log", {"ACCESS_LOG": "true", "LOG_FORMAT": "json"})
    compare("access logs", off, on, aim=AIM, rounds=rounds, seconds=seconds)
