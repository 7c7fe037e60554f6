"""What an activity does to the world, and what follows if nobody knows what it did."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec

from durable.api.activities.kinds import Verify
from durable.errors import DefinitionError, InvalidOptionError

T = TypeVar("T")

EFFECTS: Final = ("read", "idempotent", "once", "transaction")
IN_DOUBT: Final = ("raise", "wait")
_CONNECTIONS: Final = ("Connection", "Session", "AsyncConnection", "AsyncSession")


class Done(msgspec.Struct, Generic[T], frozen=True):
    """What `verify` gives: the attempt in doubt has had its effect.

    Attributes:
        result: what the activity should have returned.
    """

    result: T


class NotDone(msgspec.Struct, frozen=True):
    """What `verify` gives: it has certainly had none, so the function may run."""


def effect_named(given: Mapping[str, Any], usual: str | None) -> object:
    """The effect that `at_most_once` stands for, beside what else is given.

    Raises:
        InvalidOptionError: it is no bool, or contradicts `effect`.
    """
    is_once = given["at_most_once"]
    if not isinstance(is_once, bool):
        raise InvalidOptionError(f"at_most_once is {is_once!r}: give True or False.")
    if "effect" in given:
        if is_once != (given["effect"] == "once"):
            raise InvalidOptionError(
                f"at_most_once is {is_once}, but effect is {given['effect']!r}.",
                hint="at_most_once=True is effect='once': give one of them.",
            )
        return given["effect"]
    if is_once:
        return "once"
    return "idempotent" if usual == "once" else usual


def effect_settings(
    options: Mapping[str, Any], verify: Verify | None, where: str
) -> dict[str, Any]:
    """The fields of recorded settings that say what follows on a doubt.

    Raises:
        InvalidOptionError: an option has a wrong value, or means nothing.
    """
    effect, in_doubt = options.get("effect"), options.get("in_doubt")
    for name, value, words in (
        ("effect", effect, EFFECTS),
        ("in_doubt", in_doubt, IN_DOUBT),
    ):
        if value not in words:
            raise InvalidOptionError(
                f"{name} {where} is {value!r}: give {', '.join(map(repr, words))}."
            )
    if effect != "once":
        if in_doubt != "raise":
            raise InvalidOptionError(
                f"in_doubt {where} is {in_doubt!r}, but its effect is {effect!r}: what"
                " an attempt of it has done is never in question.",
                hint="Give effect='once', or leave in_doubt out.",
            )
        found: dict[str, Any] = {"at_most_once": False}
        return found if effect == "idempotent" else found | {"effect": effect}
    means = ["verify"] * (verify is not None) + ["wait"] * (in_doubt == "wait")
    recorded = {"in_doubt": ",".join(means)} if means else {}
    return {"at_most_once": True, **recorded}


def check_verify(
    verify: object,
    effect: object,
    name: str,
    arguments: inspect.Signature,
    first: tuple[str, ...],
) -> None:
    """See that what is to verify attempts in doubt can be called as the activity is.

    Raises:
        DefinitionError: it cannot be called, or not with the activity's arguments.
        InvalidOptionError: nothing would call it.
    """
    if verify is None:
        return
    if not callable(verify):
        raise DefinitionError(
            f"verify of activity {name!r} is {verify!r}, which cannot be called.",
            hint="Give a function of the activity's own parameters.",
        )
    if effect != "once":
        raise InvalidOptionError(
            f"Activity {name!r} has verify, but its effect is {effect!r}: no attempt of"
            " it is ever verified.",
            hint="Give effect='once', or leave verify out.",
        )
    given = [*first]
    named: dict[str, str] = {}
    for one in arguments.parameters.values():
        if one.kind is one.KEYWORD_ONLY:
            named[one.name] = one.name
        elif one.kind is not one.VAR_POSITIONAL:
            given.append(one.name)
    try:
        inspect.signature(verify).bind(*given, **named)
    except TypeError as error:
        raise DefinitionError(
            f"verify of activity {name!r} cannot be called as the activity is,"
            f" {name}{arguments}: {error}.",
            hint="Give a function of the activity's own parameters; a method's object"
            " comes first.",
        ) from None
    except ValueError:  # one of C code does not say what it takes
        return


def find_transaction(resources: Mapping[str, object]) -> tuple[str, type[Any]] | None:
    """The parameter that takes the connection or session of a transaction."""
    found = [
        (parameter, key)
        for parameter, key in resources.items()
        if isinstance(key, type) and kind_of(key)
    ]
    return found[0] if len(found) == 1 else None


def kind_of(key: type[Any]) -> str | None:
    """Which of SQLAlchemy's connections and sessions a class is, if it is one."""
    for base in key.__mro__:
        if base.__module__.startswith("sqlalchemy.") and base.__name__ in _CONNECTIONS:
            return base.__name__
    return None


def check_transaction(
    name: str,
    resources: Mapping[str, object],
    *,
    is_wanted: bool,
    is_async: bool,
    lane: str,
) -> tuple[str, type[Any]] | None:
    """See that an activity of effect "transaction" can be given one.

    Raises:
        DefinitionError: it takes none, or none that fits how it runs.
    """
    if not is_wanted:
        return None
    found, where = find_transaction(resources), f"Activity {name!r}"
    if found is None:
        raise DefinitionError(
            f"{where} is of effect 'transaction', but takes none, or several.",
            hint="Take one: *, session: Session = resource(Session); or SQLAlchemy's"
            " Connection, AsyncSession or AsyncConnection.",
        )
    kind = kind_of(found[1]) or ""
    if kind.startswith("Async") != is_async:
        raise DefinitionError(
            f"{where} is {'async' if is_async else 'a plain function'}, but takes a"
            f" {found[1].__name__}.",
            hint="Async functions take an AsyncSession or AsyncConnection, plain ones"
            " a Session or Connection.",
        )
    if lane == "process":
        raise DefinitionError(
            f"{where} is to run in a process, but its transaction is in the engine's.",
            hint="Let it run in a thread.",
        )
    return found
