"""Secrets scan of this repository: its files and its whole history. ``python -m scripts.secrets_scan``."""

import sys
from pathlib import Path

from relay.scanning.scan import scan_history, scan_path


def main() -> int:
    top = Path(__file__).resolve().parent.parent
    tree, history = scan_path(top), scan_history(top)
    for report in (tree, history):
        for line in [*map(str, report.findings), *report.left_out]:
            print(line)
    failed = [*tree.findings, *history.findings, *tree.left_out, *history.left_out]
    print(f"secrets scan: {tree.scanned} files, {history.scanned} versions, {len(failed)} findings")
    return 1 if failed or not tree.scanned or not history.scanned else 0


if __name__ == "__main__":
    sys.exit(main())
