"""Signed heads as texts: a C2SP signed note over a checkpoint whose root is the hash of the chain's last row."""

from collections.abc import Sequence

from relay.crypto.signing import Checkpoint, HeadSigner, SignatureError, checkpoint, parse_checkpoint, verify_note


def sign_head(signer: HeadSigner, size: int, head: str) -> str:
    """Return the signed note that says: the log has ``size`` events and the last one's hash is ``head`` (hex)."""
    return signer.sign(checkpoint(signer.name, size, bytes.fromhex(head)))


def check_note(note: str, vkeys: Sequence[str]) -> Checkpoint:
    """Return what ``note`` says; SignatureError unless one of ``vkeys`` signed it for the log of its own name."""
    problem = SignatureError("there is no key to check it with")
    for vkey in vkeys:
        try:
            found = parse_checkpoint(verify_note(note, vkey))
        except SignatureError as error:
            problem = error
            continue
        if found.origin != vkey.partition("+")[0]:
            raise SignatureError("it was signed for another log")
        return found
    raise problem


def as_line(note: str) -> str:
    """Return a note in one line, for logs: line feeds are written as backslash n."""
    return note.replace("\n", "\\n")


def from_text(text: str) -> str:
    """Return the note in ``text``, which is a note as it is or in the form of :func:`as_line`."""
    if "\\n" in text and "\n" not in text.strip():
        return text.strip().replace("\\n", "\n")
    return text
