"""Verifying ECDSA signatures on P-256 with SHA-256, as GitHub signs its reports of leaked secrets."""

import base64
import binascii
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_MAX_SIGNATURE: Final = 256
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256())


class PublicKey:
    """A public key on the curve P-256."""

    def __init__(self, pem: str) -> None:
        """Read a key from PEM (SubjectPublicKeyInfo); ValueError, which never quotes, for anything else."""
        try:
            key = serialization.load_pem_public_key(pem.encode("ascii", "replace"))
        except Exception:  # the parser raises several kinds of its own for text that is no key
            raise ValueError("must be a public key in PEM") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("must be a public key on the curve P-256")
        self._key = key

    def verifies(self, signature: str, message: bytes) -> bool:
        """Say whether ``signature`` (base64 of DER) is this key's over ``message``; False for any other text."""
        if len(signature) > _MAX_SIGNATURE:
            return False
        try:
            self._key.verify(base64.b64decode(signature.encode("ascii"), validate=True), message, _ALGORITHM)
        except (InvalidSignature, binascii.Error, UnicodeEncodeError, ValueError):
            return False
        return True
