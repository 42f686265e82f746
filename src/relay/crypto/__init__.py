"""The only user of ``hmac``, ``hashlib`` and ``cryptography``: digests, key derivation, envelopes, signatures."""
