"""`make audit`: asks an advisory service whether a version we pin has a known vulnerability. Standard library only.

Says in so many words when nobody could be asked, and never takes that for a good answer. No part of `make test`, which works offline.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from typing import Any

from docker.prerequisites import ROOT

TOOL = "pip-audit==2.10.1"
"""In an environment of its own: what it needs is nothing that runs here."""

HOME = ROOT / ".tools" / "audit"
PINS = ROOT / "constraints.txt"

GOOD, VULNERABLE, NOBODY_ASKED = 0, 1, 3
"""Exit codes."""


def _install() -> str | None:
    """What pip said where it could not; None where the tool is there."""
    done = HOME / "installed"
    if done.exists() and done.read_text() == TOOL:
        return None
    venv.create(HOME, with_pip=True, clear=True)
    words = [str(HOME / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", TOOL]
    tried = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
    if tried.returncode != 0:
        return tried.stderr.strip() or tried.stdout.strip()
    done.write_text(TOOL)
    return None


def _ask(service: str) -> tuple[str, str]:
    """(its JSON, what it complained of)."""
    words = [str(HOME / "bin" / "pip-audit"), "--requirement", str(PINS), "--no-deps", "--disable-pip"]
    words += ["--progress-spinner", "off", "--format", "json", "--vulnerability-service", service]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=1800)
    return done.stdout, done.stderr


def judge(answer: str, complaint: str, pinned: int) -> tuple[int, list[str]]:
    """The exit code and what a person reads. Only an answer about every pinned version counts as one."""
    try:
        rows: Sequence[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = complaint.strip().splitlines()[-1:] or ["it said nothing"]
        return NOBODY_ASKED, [
            f"The advisory service could not be asked: {last[0]}",
            "Nothing is known: try again online.",
        ]
    skipped = [f"{row['name']}: {row['skip_reason']}" for row in rows if "skip_reason" in row]
    found = [
        f"{row['name']} {row['version']}: {each['id']}, mended in {', '.join(each['fix_versions']) or 'no version yet'}"
        for row in rows
        for each in row.get("vulns", ())
    ]
    if found:
        return VULNERABLE, [f"{len(found)} known vulnerabilities:", *found, *skipped]
    if skipped or len(rows) < pinned:
        told = f"The advisory service answered about {len(rows) - len(skipped)} of {pinned} pinned versions only"
        return NOBODY_ASKED, [told, *skipped]
    return GOOD, [f"No known vulnerability in any of the {len(rows)} pinned versions."]


def main() -> int:
    pinned = sum("==" in line for line in PINS.read_text().splitlines())
    failed = _install()
    if failed is not None:
        print(f"  {TOOL} could not be installed, so nobody could be asked: {failed.splitlines()[-1]}", file=sys.stderr)
        return NOBODY_ASKED
    code, lines = judge(*_ask(os.environ.get("AUDIT_SERVICE", "pypi")), pinned)
    print("\n".join(f"  {line}" for line in lines), file=sys.stdout if code == GOOD else sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
