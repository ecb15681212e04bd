"""Tables of who may do what and who did what: users, their sessions, API keys, failed logins, requests answered, the audit.

Nothing here is a secret in clear: passwords are argon2 hashes, tokens and keys SHA-256 of 256 random bits.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from core.routing import PEOPLE_SCHEMA
from core.storage.models import Base

AUDIT_TABLE = "audit"


class UserRow(Base):
    """A person. Never deleted, only disabled: the audit goes on naming them. `name` is in lower case."""

    __tablename__ = "users"
    __table_args__ = {"schema": PEOPLE_SCHEMA}  # noqa: RUF012

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str]
    role: Mapped[str]
    created_at: Mapped[datetime]
    password_set_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class SessionRow(Base):
    """One login: the family of refresh tokens that follow from it. Over at `expires_at`, or when it was ended."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_by_user", "user_id"), {"schema": PEOPLE_SCHEMA})

    session_id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(UserRow.user_id))
    created_at: Mapped[datetime]
    origin: Mapped[str]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended_why: Mapped[str | None]


class RefreshTokenRow(Base):
    """One refresh token of a session; used once. A second use ends the session."""

    __tablename__ = "refresh_tokens"
    __table_args__ = (Index("refresh_tokens_by_session", "session_id"), {"schema": PEOPLE_SCHEMA})

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    session_id: Mapped[UUID] = mapped_column(ForeignKey(SessionRow.session_id))
    issued_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    used_from: Mapped[str | None]


class ApiKeyRow(Base):
    """A program's key. `scopes` is what it may act on; its role is never more than its owner's."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("api_keys_by_user", "user_id"), {"schema": PEOPLE_SCHEMA})

    key_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID] = mapped_column(ForeignKey(UserRow.user_id))
    name: Mapped[str]
    role: Mapped[str]
    scopes: Mapped[list[Any]]
    secret_hash: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class LoginGuardRow(Base):
    """Failed logins of one name or one address, and until when no more are tried."""

    __tablename__ = "login_guards"
    __table_args__ = {"schema": PEOPLE_SCHEMA}  # noqa: RUF012

    guard: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int]
    last_at: Mapped[datetime]
    locked_until: Mapped[datetime | None]


class RequestRow(Base):
    """One thing asked with an Idempotency-Key, and its answer once there was one. The same key again gets the same answer."""

    __tablename__ = "requests"
    __table_args__ = (Index("requests_by_age", "begun_at"), {"schema": PEOPLE_SCHEMA})

    request_id: Mapped[UUID] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    begun_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    answer: Mapped[dict[str, Any] | None]


class AuditRow(Base):
    """Who did what, before, after, from where and why. Our role may add rows and read them, nothing else."""

    __tablename__ = AUDIT_TABLE
    __table_args__ = (
        Index("audit_by_time", "at", "audit_id"),
        Index("audit_by_subject", "subject"),
        {"schema": PEOPLE_SCHEMA},
    )

    audit_id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    via: Mapped[str]
    origin: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    outcome: Mapped[str]
    reason: Mapped[str] = mapped_column(server_default=text("''"))
    before: Mapped[dict[str, Any] | None]
    after: Mapped[dict[str, Any] | None]
    request_id: Mapped[UUID | None]


ACCESS_TABLES = [table for table in Base.metadata.sorted_tables if table.schema == PEOPLE_SCHEMA]
