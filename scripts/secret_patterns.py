"""Credentials that detect-secrets has no detector for; loaded as its plug-in by scripts/secrets_scan.py."""

import re

from detect_secrets.plugins.base import RegexBasedDetector


class RelayPatternsDetector(RegexBasedDetector):
    """Keys of Relay itself and of the services that it is configured with."""

    secret_type = "Credential of Relay or of a service it uses"
    denylist = (
        re.compile(r"relay_sk_(?:live|test|local)_[0-9A-Za-z]{30,}"),
        re.compile(r"whsec_[A-Za-z0-9+/]{32,}"),
        re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9]{20,}"),
        re.compile(r"(?<![A-Za-z0-9])sk-(?:proj|svcacct|admin|ant)-[A-Za-z0-9_-]{30,}"),
        re.compile(r"GOCSPX-[A-Za-z0-9_-]+"),
    )
