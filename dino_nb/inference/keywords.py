"""Arguments as people give them: misspelt keywords get the nearest one, numbers out of range their range."""

import functools
import inspect
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ParamSpec, TypeVar

from dino_nb.errors import UserError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def known_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: an unknown keyword is a ``UserError`` that offers the nearest one, not a ``TypeError``."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in names:
                near = did_you_mean(name, names) or f" It takes {', '.join(names)}."
                raise UserError(f"{function.__name__} has no argument {name!r}.{near}")
        return function(*args, **kwargs)

    return checked


def check_number(name: str, value: Any, least: float, most: float | None = None, whole: bool = False) -> None:
    """``UserError`` unless ``value`` is a number (``whole``: an integer) in [``least``, ``most``]."""
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        raise UserError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.")
    number = float(value)
    if not least <= number or (most is not None and not number <= most):
        span = f"at least {least:g}" if most is None else f"in [{least:g}, {most:g}]"
        raise UserError(f"{name} must be {span}, not {value!r}.")
