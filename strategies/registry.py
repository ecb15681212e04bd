"""Strategies by class name: every BaseStrategy subclass in a module of this package. Drop a file in, its class is known."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import lru_cache
from typing import Any

import strategies
from core.errors import ConfigError
from strategies.base import BaseStrategy

StrategyClass = type[BaseStrategy[Any]]


@lru_cache(maxsize=1)
def known() -> dict[str, StrategyClass]:
    """Class name → class.

    Raises:
        ConfigError: when two modules define a strategy of the same name.
    """
    found: dict[str, StrategyClass] = {}
    for module_info in pkgutil.iter_modules(strategies.__path__):
        module = importlib.import_module(f"strategies.{module_info.name}")
        for name, value in inspect.getmembers(module, inspect.isclass):
            if value.__module__ != module.__name__ or not issubclass(value, BaseStrategy) or value is BaseStrategy:
                continue
            if name in found:
                raise ConfigError(
                    f"two strategies are called {name}: {found[name].__module__} and {module.__name__}; rename one"
                )
            found[name] = value
    return found
