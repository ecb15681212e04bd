"""`make audit` tells good news, bad news and no news apart: an advisory service that cannot be asked is never taken for a good answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from docker.audit import GOOD, NOBODY_ASKED, VULNERABLE, judge


def answer(*rows: dict[str, Any]) -> str:
    return json.dumps({"dependencies": rows, "fixes": []})


CLEAN: dict[str, Any] = {"name": "one", "version": "1.0", "vulns": []}
BAD = {"name": "two", "version": "2.0", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "three", "skip_reason": "not found there"}


@pytest.mark.parametrize(
    ("said", "complaint", "code", "words"),
    [
        (answer(CLEAN, CLEAN), "", GOOD, "any of the 2"),
        (answer(CLEAN, BAD), "", VULNERABLE, "two 2.0: CVE-2026-1, mended in 2.1"),
        (answer(SKIPPED, BAD), "", VULNERABLE, "three: not found there"),
        (answer(CLEAN, SKIPPED), "", NOBODY_ASKED, "1 of 2"),
        (answer(CLEAN), "", NOBODY_ASKED, "1 of 2"),
        ("", "ERROR:connection refused\n", NOBODY_ASKED, "could not be asked: ERROR:connection refused"),
        ("{}", "", NOBODY_ASKED, "could not be asked"),
        ("<html>502</html>", "", NOBODY_ASKED, "could not be asked"),
    ],
)
def test_what_is_known_and_what_is_not(said: str, complaint: str, code: int, words: str) -> None:
    found, lines = judge(said, complaint, 2)
    assert found == code
    assert words in "\n".join(lines)
