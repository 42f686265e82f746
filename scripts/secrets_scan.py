"""Secrets scan over the files that git knows: ``python -m scripts.secrets_scan [FILE …]``.

detect-secrets with the detectors that know the shape of a credential. Those that guess from entropy or from a
variable's name are left out: hashes, ids and digests fill this repository, and a scan that is always red is not read.
Nothing is sent anywhere to verify a finding, and no finding is printed. A made-up credential that has to stand in a
file is marked on its line with ``pragma: allowlist secret``.
"""

import sys
from pathlib import Path
from typing import Any, Final

from detect_secrets.core.potential_secret import PotentialSecret
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import get_settings, transient_settings

from scripts.house import Finding, known_files

DETECTORS: Final = (
    "ArtifactoryDetector",
    "AWSKeyDetector",
    "AzureStorageKeyDetector",
    "BasicAuthDetector",
    "CloudantDetector",
    "DiscordBotTokenDetector",
    "GitHubTokenDetector",
    "GitLabTokenDetector",
    "IbmCloudIamDetector",
    "IbmCosHmacDetector",
    "JwtTokenDetector",
    "MailchimpDetector",
    "NpmDetector",
    "OpenAIDetector",
    "PrivateKeyDetector",
    "PypiTokenDetector",
    "SendGridDetector",
    "SlackDetector",
    "SoftlayerDetector",
    "SquareOAuthDetector",
    "StripeDetector",
    "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)
PATTERNS: Final = Path(__file__).with_name("secret_patterns.py")
FILTERS: Final = frozenset(
    {
        "detect_secrets.filters.allowlist.is_line_allowlisted",
        "detect_secrets.filters.common.is_invalid_file",
        "detect_secrets.filters.heuristic.is_non_text_file",
    }
)
BASIC_AUTH: Final = "Basic Auth Credentials"


def scan(names: list[str], top: Path) -> list[Finding]:
    """Return one finding per line that looks like a credential; paths are relative to ``top``."""
    plugins: list[dict[str, Any]] = [{"name": name} for name in DETECTORS]
    plugins.append({"name": "RelayPatternsDetector", "path": PATTERNS.resolve().as_uri()})
    findings = []
    with transient_settings({"plugins_used": plugins}):
        # The default heuristics drop what looks sequential or templated; a detector of exact shapes needs none.
        get_settings().disable_filters(*(set(get_settings().filters) - FILTERS))
        for name in names:
            for secret in scan_file(str(top / name)):
                if not _is_example(name, secret):
                    findings.append(Finding(name, secret.line_number, "secret", secret.type))
    return sorted(findings, key=lambda finding: (finding.path, finding.line))


def _is_example(name: str, secret: PotentialSecret) -> bool:
    # Documentation spells out user:password@host, and tests hold such URLs to see them refused or redacted.
    return secret.type == BASIC_AUTH and (secret.secret_value == "password" or name.startswith("tests/"))


def main(arguments: list[str]) -> int:
    top = Path(__file__).resolve().parent.parent
    names = arguments or known_files(top)
    findings = scan(names, top)
    for finding in findings:
        print(finding)
    print(f"secrets scan: {len(names)} files, {len(findings)} findings")
    return 1 if findings or not names else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
