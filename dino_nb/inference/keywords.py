"""Misspelt keywords answered with the nearest one."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

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
