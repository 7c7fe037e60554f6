"""`@entity`: a class whose objects live under keys, one call after the other at each.

Everything that is wrong with a class is said at once, when it is decorated.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
from typing import Any, Protocol, TypeGuard, TypeVar, overload

import msgspec
from typing_extensions import Unpack, dataclass_transform

from durable.api.activities.activity_method import find_misplaced_activities
from durable.api.definitions import check_name, decorate
from durable.api.entities.entity_call import EntityCall, EntityTarget
from durable.api.entities.entity_definition import EntityOptions, EntityWorkflow
from durable.api.entities.entity_method import EntityMethod
from durable.api.workflows.decorated import attributes_of, refuse_problems, refuse_twice
from durable.api.workflows.methods import HandlerMethod, RunMethod
from durable.api.workflows.workflow_definition import (
    WORKFLOW_ATTRIBUTE,
    register_workflow,
    workflow_of,
)
from durable.core.history.ids import ENTITY_TYPES
from durable.errors import DefinitionError
from durable.options import check_option_names

T = TypeVar("T")


# --- references -----------------------------------------------------------------------


class EntityRef:
    """One entity: a class and a key. Its methods make calls.

    Type checkers take it for the class itself, so that its methods keep their types.
    """

    __slots__ = ("durable_target",)

    def __init__(self, target: EntityTarget) -> None:
        self.durable_target = target

    def __getattr__(self, name: str) -> Any:
        definition = self.durable_target.definition
        method = (
            definition.attributes.get(name)
            if isinstance(definition, EntityWorkflow)
            else None
        )
        if method is None:
            raise AttributeError(
                f"{self!r} has no method {name!r}. A reference has the methods of its"
                " class and nothing else; a @shared method can read the state."
            )
        return functools.partial(self._call, method)

    def _call(self, method: EntityMethod, *args: Any, **kwargs: Any) -> EntityCall[Any]:
        return method.call_of(self.durable_target, args, kwargs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EntityRef) and (
            self.durable_target.workflow_id == other.durable_target.workflow_id
        )

    def __hash__(self) -> int:
        return hash(self.durable_target.workflow_id)

    def __repr__(self) -> str:
        return repr(self.durable_target)

    def __reduce__(self) -> Any:
        """Pickle by class and key."""
        return _reference, (
            self.durable_target.definition.origin,
            self.durable_target.key,
        )


def _reference(cls: type[Any], key: str) -> EntityRef:
    definition = workflow_of(cls)
    if not isinstance(definition, EntityWorkflow):
        raise DefinitionError(
            f"{cls.__qualname__}[{key!r}] was asked for, but {cls.__qualname__} is no"
            " entity.",
            hint="Put @entity on the class itself; a subclass needs its own.",
        )
    return EntityRef(EntityTarget(definition, key))


def is_entity_ref(value: object) -> TypeGuard[EntityRef]:
    """Whether a value is a reference such as `Cart["alice"]`."""
    return isinstance(value, EntityRef)


@dataclass_transform(field_specifiers=(dataclasses.field, dataclasses.Field))
class EntityType(abc.ABCMeta):
    """What lets a class be indexed by a key."""

    def __getitem__(cls: type[T], key: str, /) -> type[T]:
        """The entity of that key.

        Raises:
            InvalidIdError: the key cannot be part of an id.
            DefinitionError: the class is not under `@entity`.
        """
        found: Any = _reference(cls, key)
        return found  # type: ignore[no-any-return]  # the reference stands for the class

    def of(cls: type[T], key: str, /) -> type[T]:
        """The entity of that key, as `cls[key]`.

        mypy reads `cart = Cart["alice"]` as a type alias; `cart = Cart.of("alice")`
        is none.

        Raises: as `cls[key]`.
        """
        found: Any = _reference(cls, key)
        return found  # type: ignore[no-any-return]  # the reference stands for the class


class Entity(metaclass=EntityType):
    """Base of entities, for the sake of type checkers: it makes `Cart["alice"]` typed.

    @entity
    class Cart(Entity):
        items: dict[str, int] = field(default_factory=dict)
    """

    __slots__ = ()


# --- the decorator --------------------------------------------------------------------


class EntityDecorator(Protocol):
    """What `@entity(...)` with options returns."""

    def __call__(self, cls: type[T], /) -> type[T]: ...


@overload
def entity(cls: type[T], /) -> type[T]: ...
@overload
def entity(
    *, name: str | None = None, **options: Unpack[EntityOptions]
) -> EntityDecorator: ...
@dataclass_transform(field_specifiers=(dataclasses.field, dataclasses.Field))
def entity(
    cls: Any = None, /, *, name: str | None = None, **options: Unpack[EntityOptions]
) -> Any:
    """Make a class an entity: an object for each key, that lives until it is ended.

        @entity
        class Cart(Entity):
            items: dict[str, int] = field(default_factory=dict)

            @exclusive
            async def add(self, item: str, n: int = 1) -> int: ...

            @shared
            def total(self) -> int: ...

        await engine.call(Cart["alice"].add("apple", n=2))

    The annotated attributes are the state, as in a dataclass; each has a default, and a
    new key begins as `Cart()`. State is data: it is recorded as JSON by its
    annotations. Methods are `@exclusive` or `@shared`; all others are plain methods.

    Each key is the run of a workflow of the id `entity:Cart:alice`. It is started by
    the first call of an exclusive method, and costs a row while nobody calls it.
    Cancelling that run ends the entity once the calls under way have ended; the next
    call begins anew.

    Args:
        cls: the class. It becomes a dataclass, unless it is one, or a msgspec Struct.
        name: what histories and ids call it instead of the class's name. Keep it when
            you rename the class.
        **options: see `EntityOptions`.

    Raises:
        DefinitionError: it cannot be an entity, or its name is taken. All that is wrong
            with it is said at once.
        InvalidOptionError: an option has a wrong value.
    """
    check_option_names(options, EntityOptions.__annotations__, "entity option")
    return decorate(_define, cls, name=name, options=options)


def _define(cls: Any, /, *, name: str | None, options: EntityOptions) -> Any:
    if not isinstance(cls, type):
        raise DefinitionError(
            f"@entity was put on {cls!r}, which is no class.",
            hint="An entity is a class with @exclusive and @shared methods.",
        )
    refuse_twice(cls, "entity")
    _make_dataclass(cls)
    methods, problems = _find_methods(cls)
    checked = cls.__name__ if name is None else name
    if ":" in checked:
        problems.append(f"Its name {checked!r} has a colon, which ends it in ids.")
    problems += _find_problems_of_state(cls) + find_misplaced_activities(cls)
    refuse_problems(
        cls,
        "entity",
        problems,
        "An entity has @exclusive and @shared methods, and annotated attributes with"
        " defaults.",
    )
    definition = EntityWorkflow(
        cls, check_name(ENTITY_TYPES + checked, "entity"), options, methods
    )
    register_workflow(definition, "entity")
    setattr(cls, WORKFLOW_ATTRIBUTE, definition)
    if not isinstance(cls, EntityType):
        cls.__class_getitem__ = classmethod(_reference)  # type: ignore[attr-defined]  # what EntityType does for others
    return cls


def _make_dataclass(cls: type[Any]) -> None:
    is_done = (
        "__dataclass_fields__" in vars(cls)
        or hasattr(cls, "__attrs_attrs__")
        or issubclass(cls, msgspec.Struct)
    )
    if not is_done:
        try:
            dataclasses.dataclass(cls)
        except (TypeError, ValueError) as error:
            raise DefinitionError(
                f"@entity cannot make the class {cls.__qualname__} a dataclass:"
                f" {error}."
            ) from None


def _find_methods(cls: type[Any]) -> tuple[dict[str, EntityMethod], list[str]]:
    """The methods of a class, by attribute; and what is wrong with them."""
    methods: dict[str, EntityMethod] = {}
    problems: list[str] = []
    seen: dict[str, str] = {}
    for name, own, others in attributes_of(cls):
        hidden = next((v for _, v in others if isinstance(v, EntityMethod)), None)
        if isinstance(own, EntityMethod):
            methods[name] = own
            problems += own.find_problems()
            other = seen.setdefault(own.name, name)
            if other != name:
                problems.append(
                    f"Two methods are named {own.name!r}: {other!r} and {name!r}."
                )
        elif _is_of_workflow(own):
            problems.append(
                f"{name!r} is a method of a workflow; put @exclusive or @shared on it."
            )
        if hidden is not None and type(hidden) is not type(own):
            problems.append(
                f"{name!r} overrides a @{hidden.decorator} method; put"
                f" @{hidden.decorator} on it."
            )
    if not methods:
        problems.append("It has neither @exclusive nor @shared methods.")
    if "of" in methods:
        problems.append("A method is called 'of', which gives the entity of a key.")
    return methods, problems


def _is_of_workflow(value: object) -> bool:
    return isinstance(value, HandlerMethod | RunMethod)


def _find_problems_of_state(cls: type[Any]) -> list[str]:
    if inspect.isabstract(cls):
        return ["It is abstract: no object of it can be made."]
    problems = [
        f"{name!r} has no default; a new key begins as {cls.__name__}()."
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if getattr(cls, "__parameters__", ()):
        problems.append("It is generic: its keys would mean types.")
    known = getattr(cls, "__dataclass_fields__", None)
    for base in cls.__mro__[1:-1] if known is not None else ():
        lost = sorted(_annotated(base) - set(known or ()))
        if lost:
            problems.append(
                f"{base.__qualname__} annotates {', '.join(map(repr, lost))}, but is"
                " no dataclass; put @dataclass on it."
            )
    return problems


def _annotated(base: type[Any]) -> set[str]:
    """The attributes that a class annotates for its objects."""
    try:
        found = inspect.get_annotations(base)
    except NameError:  # one names what comes later, which a dataclass reads as text
        return set()
    return {name for name, hint in found.items() if "ClassVar" not in str(hint)}
