"""Credentials that detect-secrets has no detector for, or finds only in part."""

import re

from detect_secrets.plugins.base import RegexBasedDetector


class OwnFormats(RegexBasedDetector):
    """Keys of Relay itself and of the services that it is configured with."""

    secret_type = "Credential of Relay or of a service it uses"  # noqa: S105 - what a finding is called
    denylist = (
        re.compile(r"relay_sk_(?:live|test|local)_[0-9A-Za-z]{30,}"),
        re.compile(r"whs(?:ec|k)_[A-Za-z0-9+/]{32,}"),
        re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9]{20,}"),
        re.compile(r"(?<![A-Za-z0-9])sk-(?:proj|svcacct|admin|ant)-[A-Za-z0-9_-]{30,}"),
        re.compile(r"GOCSPX-[A-Za-z0-9_-]{20,}"),
        re.compile(r"AIza[0-9A-Za-z_-]{35}"),
        re.compile(r"ya29\.[0-9A-Za-z_-]{20,}"),
        re.compile(r"github_pat_[0-9A-Za-z_]{40,}"),
        re.compile(r"xapp-[0-9]-[0-9A-Z]+-[0-9]+-[0-9a-f]{20,}"),
    )
