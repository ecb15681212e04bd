"""People and programs: users with their roles, and API keys. A password or key is shown once, where it was made, and kept nowhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui.element import Element

from api.auth import Needs
from api.pages import formats, parts
from api.pages.desk import Desk
from api.pages.dialogs import Field, Question, Values
from api.pages.page import Page
from api.pages.parts import Act, Column, Row, Table, cell, chip
from api.routers import people
from core.people.roles import Role, Scope

_USERS = (
    Column("Name"),
    Column("Role"),
    Column("May log in"),
    Column("Since"),
    Column("Password set"),
    Column("", sorts=False),
)
_KEYS = (
    Column("Name"),
    Column("Whose"),
    Column("Role"),
    Column("May", "wide"),
    Column("Last used"),
    Column("Until"),
    Column("", sorts=False),
)
_ROLES = {
    Role.VIEWER.value: "viewer: looks",
    Role.TRADER.value: "trader: acts on orders and strategies, engages the kill switch",
    Role.ADMIN.value: "admin: also opts in, sets limits, releases, manages people",
}


class _People:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.users: dict[str, people.User] = {}
        self.ask: Any = None

    def build(self) -> None:
        with parts.card("Users"):
            with Element("div").classes("choices"):
                parts.button("New user …", self._ask_user, "small")
            self.user_table = Table("Users", _USERS, empty="Nobody.", on_act=self._acted)
        with parts.card("API keys"):
            parts.text("For programs. A key never may do more than its owner, and dies with them.", "p", "quiet")
            with Element("div").classes("choices"):
                parts.button("New key of mine …", self._ask_key, "small")
            self.key_table = Table("API keys", _KEYS, empty="No key. Make one for each program.", on_act=self._revoke)

    async def load(self) -> None:
        links = self.desk.room.links
        found = (await people.list_users(links)).users
        self.users = {user.name: user for user in found}
        self.user_table.show([_user(user) for user in found])
        keys = (await people.list_keys(self.desk.actor, links)).keys
        self.key_table.show([_key(key) for key in keys if key.revoked_at is None])

    async def _acted(self, name: str, act: str) -> None:
        user = self.users.get(name)
        if user is None:
            return
        if act == "role":
            self._ask_role(user)
        elif act == "password":
            self._ask_password(user)
        else:
            self._ask_enabled(user)

    # users ---------------------------------------------------------------------------------------------------------------

    def _ask_user(self) -> None:
        async def work(values: Values, key: str) -> str:
            asked = people.NewUser(name=values["name"].strip(), role=Role(values["role"]))
            answer = await self.desk.ask(people.add_user, asked, key=key)
            self._told(f"{answer.user.name} may log in with this password", answer.password)
            return ""

        fields = [
            Field("name", "Name", required=True, hint="2 to 32 of a-z 0-9 . _ -"),
            Field("role", "Role", options=_ROLES, value=Role.VIEWER.value),
        ]
        Question(
            self.desk, "New user", work, words=["With a generated password, shown once."], fields=fields, do="Make it"
        )

    def _ask_role(self, user: people.User) -> None:
        async def work(values: Values, key: str) -> str:
            asked = people.ChangeUser(role=Role(values["role"]))
            changed = await self.desk.ask(people.change_user, user.name, asked, key=key)
            self.ask()
            return f"{changed.name} is {changed.role} from the next request on."

        fields = [Field("role", "Role", options=_ROLES, value=user.role.value)]
        Question(self.desk, f"Role of {user.name}", work, fields=fields, do="Change")

    def _ask_enabled(self, user: people.User) -> None:
        async def work(_: Values, key: str) -> str:
            asked = people.ChangeUser(enabled=not user.enabled)
            changed = await self.desk.ask(people.change_user, user.name, asked, key=key)
            self.ask()
            return f"{changed.name} {'may log in again' if changed.enabled else 'is locked out'}."

        words = ["Sessions and keys end at once."] if user.enabled else ["The old password holds again; keys do not."]
        verb = "Disable" if user.enabled else "Enable"
        Question(self.desk, f"{verb} {user.name}", work, words=words, do=verb, danger=user.enabled)

    def _ask_password(self, user: people.User) -> None:
        async def work(_: Values, key: str) -> str:
            answer = await self.desk.ask(people.reset_password, user.name, people.Nothing(), key=key)
            self._told(f"The new password of {user.name}", answer.password)
            return ""

        words = ["A generated one, shown once. Their sessions end."]
        Question(self.desk, f"New password for {user.name}", work, words=words, do="Make it", danger=True)

    # keys ----------------------------------------------------------------------------------------------------------------

    def _ask_key(self) -> None:
        async def work(values: Values, key: str) -> str:
            scopes = [scope for scope in Scope if scope is Scope.READ or values[f"scope {scope}"]]
            asked = people.NewKey(name=values["name"].strip(), role=Role(values["role"]), scopes=scopes)
            answer = await self.desk.ask(people.add_key, asked, key=key)
            self._told(f"The key {answer.key.name}", answer.secret)
            return ""

        fields = [
            Field("name", "What for", required=True, placeholder="my bot"),
            Field("role", "Role", options=_ROLES, value=Role.VIEWER.value),
        ]
        fields += [
            Field(f"scope {scope}", f"May: {scope}", kind="checkbox", value=False)
            for scope in Scope
            if scope is not Scope.READ
        ]
        Question(self.desk, "New API key", work, words=["It may read; tick what else."], fields=fields, do="Make it")

    async def _revoke(self, key_id: str, _: str) -> None:
        async def work(_: Values, key: str) -> str:
            revoked = await self.desk.ask(people.revoke_key, key_id, key=key)
            self.ask()
            return f"The key {revoked.name} is refused from now on."

        Question(self.desk, "Revoke this key", work, words=["At once and for ever."], do="Revoke", danger=True)

    def _told(self, what: str, secret: str) -> None:
        self.ask()

        async def done(_: Values, __: str) -> str:
            return ""

        with self.desk.client:
            shown = Question(self.desk, what, done, words=["Shown this once: keep it now."], do="I have it")
            shown.add(_secret(secret))


def _secret(secret: str) -> Callable[[], object]:
    return lambda: parts.text(secret, "p", "secret")


def _user(user: people.User) -> Row:
    lock = Act(
        "enabled", "Disable …" if user.enabled else "Enable …", f"{'Disable' if user.enabled else 'Enable'} {user.name}"
    )
    return Row(
        user.name,
        (
            cell(user.name),
            cell(user.role),
            chip("yes", "good") if user.enabled else chip("no"),
            parts.when(user.created_at),
            parts.when(user.password_set_at),
            parts.acts(
                Act("role", "Role …", f"Role of {user.name}"),
                Act("password", "New password …", f"New password for {user.name}"),
                lock,
            ),
        ),
    )


def _key(key: people.Key) -> Row:
    return Row(
        key.key_id,
        (
            cell(key.name, more=key.key_id),
            cell(key.owner),
            cell(key.role),
            cell(", ".join(key.scopes)),
            cell(formats.clock(key.last_used_at) if key.last_used_at else "never"),
            cell(formats.clock(key.expires_at) if key.expires_at else "revoked by hand"),
            parts.acts(Act("revoke", "Revoke …", f"Revoke {key.name}", "danger")),
        ),
    )


async def build(desk: Desk) -> None:
    shown = _People(desk)
    shown.build()
    shown.ask = await desk.refresh("people", shown.load)


PAGE = Page("/users", "Users", build, needs=Needs(Role.ADMIN, Scope.PEOPLE, person=True))
