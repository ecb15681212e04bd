"""Passwords: argon2id hashes, and the rule for new ones. Never logs, returns or compares a password in clear."""

from __future__ import annotations

import asyncio
import secrets

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

SHORTEST, LONGEST = 12, 200
"""Characters. NIST SP 800-63B asks for length, not for kinds of characters; the upper bound keeps a login cheap."""

_AT_ONCE = 2
"""Hashes computed at the same time: each takes 64 MiB and a third of a second of one core."""

_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
"""Without characters that are taken for one another."""

_hasher = PasswordHash((Argon2Hasher(time_cost=3, memory_cost=65536, parallelism=1),))
_slots = asyncio.Semaphore(_AT_ONCE)
_nobody: str | None = None


def generate() -> str:
    """Four groups of five, 100 bits: can be read out and typed."""
    return "-".join("".join(secrets.choice(_ALPHABET) for _ in range(5)) for _ in range(4))


def refusal(password: str, name: str) -> str | None:
    """Why this cannot be a password; None when it can."""
    if not SHORTEST <= len(password) <= LONGEST:
        return f"password: give {SHORTEST} to {LONGEST} characters"
    if name and name in password.lower():
        return "password: leave your name out of it"
    if len(set(password)) < 5:
        return "password: it repeats a few characters"
    return None


async def hash_of(password: str) -> str:
    async with _slots:
        return await asyncio.to_thread(_hasher.hash, password)


async def matches(password: str, stored: str | None) -> bool:
    """Whether the password is the stored hash's. Takes as long where there is no such user (`stored` None)."""
    global _nobody
    if len(password) > LONGEST:
        return False
    if stored is None and _nobody is None:
        _nobody = await hash_of(secrets.token_hex(16))
    async with _slots:
        try:
            fits = await asyncio.to_thread(_hasher.verify, password, stored or _nobody or "")
        except UnknownHashError:
            return False
    return fits and stored is not None
