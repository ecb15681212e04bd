"""A form made of a strategy's own parameters gives back what that model takes; acting asks the roles the routes name."""

from __future__ import annotations

import pytest

from api.pages.catalogue import PAGES
from api.pages.desk import needed
from api.pages.schema_form import PREFIX, fields_of, values_of
from api.routers import operations, order_commands, people, strategy_changes
from core.people.roles import Role, Scope
from core.trading.risk.limits import AccountLimits, RiskLimits
from strategies import registry


@pytest.mark.parametrize("name", sorted(registry.known()))
def test_a_form_left_as_it_is_gives_the_defaults(name: str) -> None:
    model = registry.known()[name].parameters_model
    values = {field.name: field.value for field in fields_of(model, {})}
    assert model.model_validate(values_of(model, values)) == model()


@pytest.mark.parametrize("model", [RiskLimits, AccountLimits])
def test_a_form_of_limits_gives_the_limits_back(model: type[RiskLimits] | type[AccountLimits]) -> None:
    given = model.model_validate({"max_day_loss": "1234.50", "max_open_orders": 3})
    values = {field.name: field.value for field in fields_of(model, given.model_dump(mode="json"))}
    assert model.model_validate(values_of(model, values)) == given


def test_what_is_no_number_reaches_the_model_as_it_was_typed() -> None:
    model = registry.known()["Momentum"].parameters_model
    assert values_of(model, {f"{PREFIX}fast": "nine", f"{PREFIX}slow": " "}) == {"fast": "nine"}


@pytest.mark.parametrize(
    ("route", "role", "scope"),
    [
        (order_commands.cancel, Role.TRADER, Scope.ORDERS),
        (operations.engage, Role.TRADER, Scope.RISK),
        (operations.release, Role.ADMIN, Scope.RISK),
        (strategy_changes.opt_in, Role.ADMIN, Scope.STRATEGIES),
        (strategy_changes.set_limits, Role.ADMIN, Scope.RISK),
        (people.add_user, Role.ADMIN, Scope.PEOPLE),
    ],
)
def test_an_act_asks_the_role_its_route_names(route: object, role: Role, scope: Scope) -> None:
    found = needed(route)  # type: ignore[arg-type]
    assert (found.role, found.scope) == (role, scope)


def test_every_page_has_its_own_address_and_name() -> None:
    assert len({page.path for page in PAGES}) == len({page.title for page in PAGES}) == len(PAGES)
