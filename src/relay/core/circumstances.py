"""What is known about an asking besides who asks for what."""

from dataclasses import dataclass

from relay.core.origins import Origins


@dataclass(frozen=True, slots=True)
class Circumstances:
    """When a step was asked for, from where, and who has agreed to it.

    ``at`` is in microseconds. ``client`` is the caller's address as text, empty when unknown. ``approvals`` counts the
    persons who have agreed to this very step; ``other_person`` says that one of them at least had no part in making the
    requester's credential. ``untrusted_content`` says that content from outside may have had a say in the step.
    ``origins`` says where its parameters came from, None where it comes from no conversation.
    ``asked_at`` is when a step was asked for that has waited since, None for one that is asked for now.
    """

    at: int
    client: str = ""
    approvals: int = 0
    other_person: bool = False
    untrusted_content: bool = False
    asked_at: int | None = None
    origins: Origins | None = None
