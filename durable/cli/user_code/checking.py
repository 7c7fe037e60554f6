"""Checks a message by the code that is to take it, before anything is sent.

What a class or a state machine declares is known, and so are `Signal` channels. A
handler that is set at run time is known by name where the code spells the name out.
Where it does not, nothing is refused that such a handler might take.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Final, TypeGuard

import click

from durable.api.definitions import is_own
from durable.api.messages.messages import Signal, query_call, signal_call, update_call
from durable.api.registry import REGISTRY
from durable.api.signature import CallSignature, shown
from durable.api.workflows.workflow import Workflow
from durable.cli.output import note
from durable.cli.user_code.loading import Arguments, bind_arguments, plain_values
from durable.core.history.payload import Payload, Payloads
from durable.core.loop.stacks import STACK_QUERY
from durable.core.loop.user_code import Owner, owner_of
from durable.core.runtime import MessageKind
from durable.errors import InvalidCallError, UndecodableError
from durable.suggestions import ending_with_closest

_CALLS: Final[dict[MessageKind, Callable[[str, tuple[Any, ...]], Any]]] = {
    "signal": signal_call,
    "query": query_call,
    "update": update_call,
}


def definition_of(modules: tuple[str, ...], workflow_type: str) -> Workflow[Any, Any]:
    """The workflow of a run, of which the modules that were loaded hold the code.

    Raises:
        click.UsageError: they do not.
    """
    found = REGISTRY.workflows.get(workflow_type)
    if found is None:
        names = sorted(name for name in REGISTRY.workflows if not is_own(name))
        known = ", ".join(names) or "none"
        raise click.UsageError(
            f"The run is of workflow {workflow_type!r}, which {', '.join(modules)} does"
            f" not define; it defines: {known}"
            f"{ending_with_closest(workflow_type, names)}"
        )
    return found


def checked_call(
    kind: MessageKind,
    definition: Workflow[Any, Any] | None,
    name: str,
    arguments: Arguments,
) -> tuple[Any, ...]:
    """What to give a handle to send: a call, or a name and values as they are.

    Args:
        kind: of which kind the message is.
        definition: the code; None if it is not at hand.
        name: the message's name.
        arguments: its arguments.

    Raises:
        InvalidCallError: the code takes no message of that name, or others arguments.
        click.UsageError: a value does not fit its annotation, or there are keywords
            that nobody can give positions.
    """
    signatures = None if definition is None else definition.message_signatures(kind)
    if definition is not None and signatures is not None:
        input = _input(kind, definition, signatures, name, arguments)
        if input is not None:
            return (dataclasses.replace(_CALLS[kind](name, ()), input=input),)
    return name, *plain_values(arguments, "Give an array, or the code by --module.")


def _input(
    kind: MessageKind,
    definition: Workflow[Any, Any],
    signatures: dict[str | None, CallSignature],
    name: str,
    arguments: Arguments,
) -> Payloads | None:
    """The arguments as payloads; None if only the running code can tell."""
    spelt, is_open = _set_at_run_time(kind)
    if name in signatures and name not in spelt:
        return bind_arguments(signatures[name], arguments)
    is_built_in = kind == "query" and name == STACK_QUERY
    if name in spelt or None in signatures or is_built_in:
        return None
    channels = list(_channels()) if kind == "signal" else []
    named = [channel for channel in channels if channel.name == name]
    if named:
        return _value_of(named, arguments)
    takes = {spelt_name: spelt_name for spelt_name in spelt}
    for channel in channels:
        takes[channel.name] = f"{channel.name}({_type_name(channel)})"
    for declared, signature in signatures.items():
        takes[str(declared)] = f"{declared}{shown(signature.signature)}"
    text = (
        f"Workflow {definition.name!r} takes no {kind} {name!r}; it takes:"
        f" {', '.join(takes[key] for key in sorted(takes)) or 'none'}"
        f"{ending_with_closest(name, takes)}"
    )
    if not is_open:
        raise InvalidCallError(
            text, hint="Nothing was sent. Without --module it is sent as it is."
        )
    note(f"{text} It is sent, since its code may set a handler as it runs.")
    return None


def _value_of(channels: list[Signal[Any]], arguments: Arguments) -> Payloads:
    """The value of a channel; of several of one name, of the first that it fits."""
    values = arguments.positional
    if arguments.keyword:
        raise click.UsageError(f"Signal {channels[0].name!r} takes one value, unnamed.")
    input = tuple(Payload(json=value) for value in values)
    refused = ""
    for channel in channels:
        try:
            value = channel.decode(input)
        except UndecodableError as error:
            refused = refused or str(error.__context__ or error.message).rstrip(".")
        else:
            return channel(value).input
    raise InvalidCallError(
        f"The value of signal {channels[0].name!r} is of type"
        f" {_type_name(channels[0])}: {refused}."
    )


def _type_name(channel: Signal[Any]) -> str:
    return inspect.formatannotation(channel.type)


# --- what is set at run time ----------------------------------------------------------


def _modules() -> Iterator[ModuleType]:
    """The loaded modules that may talk to this library."""
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        is_source = isinstance(file, str) and file.endswith(".py")
        if is_source and owner_of(str(file)) in (Owner.USER, Owner.INSTALLED):
            yield module


def _channels() -> Iterator[Signal[Any]]:
    seen: set[int] = set()
    for module in _modules():
        for value in list(vars(module).values()):
            inner = vars(value).values() if isinstance(value, type) else (value,)
            for found in inner:
                if _is_channel(found) and id(found) not in seen:
                    seen.add(id(found))
                    yield found


def _is_channel(value: object) -> TypeGuard[Signal[Any]]:
    return isinstance(value, Signal)


def _set_at_run_time(kind: MessageKind) -> tuple[set[str], bool]:
    """The names that code spells out where it sets a handler, and whether all are."""
    names: set[str] = set()
    is_open = False
    words = {f"set_{kind}_handler", *(("Signal",) if kind == "signal" else ())}
    for module in _modules():
        try:
            source = inspect.getsource(module)
        except (OSError, TypeError, SyntaxError):
            continue
        if "durable" in source and any(word in source for word in words):
            with contextlib.suppress(SyntaxError, ValueError):
                reading = _Reading(module, words)
                reading.visit(ast.parse(source))
                names |= reading.names
                is_open = is_open or reading.is_open
    return names, is_open


class _Reading(ast.NodeVisitor):
    """Finds where a module makes channels within functions, and sets handlers."""

    def __init__(self, module: ModuleType, words: set[str]) -> None:
        self._module = module
        self._words = set(words)
        self._depth = 0
        self.names: set[str] = set()
        self.is_open = False

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            if name.name in self._words and name.asname:
                self._words.add(name.asname)

    def visit_Call(self, node: ast.Call) -> None:
        if not self._is_meant(node.func):
            self.generic_visit(node)
            return
        first = node.args[0] if node.args else None
        value: Any = getattr(first, "value", None)
        if isinstance(first, ast.Name):
            value = getattr(getattr(self._module, first.id, None), "name", None)
        is_channel = "Signal" in ast.unparse(node.func)
        if not isinstance(value, str):
            self.is_open = True
        elif not is_channel or self._depth:
            self.names.add(value)
        for part in (*node.args, *node.keywords):
            self.visit(part)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_function(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:  # what it is annotated with calls nothing
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        self.is_open = self.is_open or self._is_meant(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.is_open = self.is_open or self._is_meant(node)
        self.generic_visit(node)

    def _visit_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        for part in (*node.body, *node.decorator_list):
            self.visit(part)
        self._depth -= 1

    def _is_meant(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Subscript):
            node = node.value
        name = getattr(node, "id", getattr(node, "attr", None))
        return name in self._words
