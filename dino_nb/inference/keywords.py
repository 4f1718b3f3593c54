"""Arguments as people give them: misspelt keywords get the nearest one, numbers out of range their range."""

import functools
import inspect
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any, Concatenate, ParamSpec, TypeVar

from dino_nb.errors import UserError, did_you_mean

P = ParamSpec("P")
R = TypeVar("R")


def known_keywords(function: Callable[P, R], more: Iterable[str] = ()) -> Callable[P, R]:
    """Decorator: a keyword that is none of the function's, nor one of ``more``, is a ``UserError`` that offers the
    nearest one, not a ``TypeError``."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.name != "self" and p.kind != p.VAR_KEYWORD]

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        _refuse_unknown(function.__name__, kwargs, [*names, *more])
        return function(*args, **kwargs)

    return checked


def takes(options: Callable[P, Any]) -> Callable[[Callable[[Any, Any, Any], R]], Callable[Concatenate[Any, Any, P], R]]:
    """Decorator of a method ``(self, source, options)``: callers write the fields of ``options``, a dataclass, as
    arguments after the source, and find them in the method's signature."""
    fields = inspect.signature(options).parameters

    def decorate(method: Callable[[Any, Any, Any], R]) -> Callable[Concatenate[Any, Any, P], R]:
        own = list(inspect.signature(method).parameters.values())[:2]

        @functools.wraps(method)
        def checked(self: Any, source: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
            _refuse_unknown(method.__name__, kwargs, list(fields))
            return method(self, source, options(*args, **kwargs))

        checked.__signature__ = inspect.Signature([*own, *fields.values()])  # type: ignore[attr-defined]
        return checked

    return decorate


def check_number(name: str, value: Any, least: float, most: float | None = None, whole: bool = False) -> None:
    """``UserError`` unless ``value`` is a number (``whole``: an integer) in [``least``, ``most``]."""
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        raise UserError(f"{name} must be a {'whole ' if whole else ''}number, not {value!r}.")
    number = float(value)
    if not least <= number or (most is not None and not number <= most):
        span = f"at least {least:g}" if most is None else f"in [{least:g}, {most:g}]"
        raise UserError(f"{name} must be {span}, not {value!r}.")


def _refuse_unknown(function: str, given: Iterable[str], names: list[str]) -> None:
    for name in given:
        if name not in names:
            near = did_you_mean(name, names) or f" It takes {', '.join(names)}."
            raise UserError(f"{function} has no argument {name!r}.{near}")
