"""The user's code and input: modules by name or path, workflows, JSON arguments."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

import click
import msgspec

from durable.api.activities.activity import Activity, is_activity
from durable.api.definitions import is_own
from durable.api.interceptors.chains import Interceptors
from durable.api.interceptors.interceptor import Interceptor
from durable.api.registry import REGISTRY
from durable.api.signature import CallSignature
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.api.workflows.workflow_definition import workflow_of
from durable.cli.output import users_code_prints_to_stderr
from durable.cli.reporting import UsersCodeError
from durable.cli.user_code.importing import refusing_to_start
from durable.converter import json
from durable.core.history.payload import Payload, Payloads
from durable.errors import DurableError, InvalidOptionError, UndecodableError
from durable.suggestions import closest, ending_with_closest

_decoder: Final = msgspec.json.Decoder(list[msgspec.Raw] | dict[str, msgspec.Raw])


# --- modules --------------------------------------------------------------------------


def load_modules(names: tuple[str, ...]) -> list[ModuleType]:
    """Import the modules that hold workflows and activities.

    Raises:
        click.UsageError: there is no such module, or none of them defines anything.
        UsersCodeError: importing one raised.
    """
    modules = [load_module(name) for name in names]
    if not REGISTRY.activities and all(map(is_own, REGISTRY.workflows)):
        raise click.UsageError(
            f"{', '.join(names)}: there is no workflow and no activity in there."
            " Decorate functions with @workflow or @activity."
        )
    return modules


def load_module(name: str) -> ModuleType:
    """Import a module by its dotted name, or by the path of its file.

    Raises:
        click.UsageError: there is no such module.
        UsersCodeError: importing it raised.
    """
    _see(Path.cwd())
    is_path = name.endswith(".py") or os.sep in name
    if is_path and not Path(name).is_file():
        raise click.UsageError(f"There is no file {str(Path(name).absolute())!r}.")
    with users_code_prints_to_stderr(), refusing_to_start(name):
        try:
            return _load_file(Path(name)) if is_path else importlib.import_module(name)
        except DurableError:
            raise  # a decorator's refusal says more than we could
        except ModuleNotFoundError as error:
            if not is_path and _is_part_of(error.name, name):
                module, colon, definition = name.partition(":")
                if colon:
                    raise click.UsageError(
                        f"{name!r} names one definition, but whole modules are taken"
                        f" here: give {module!r}, without {definition!r}."
                    ) from None
                raise click.UsageError(
                    f"There is no module {name!r}. Give its dotted name as seen from"
                    " this folder, or the path of a .py file."
                ) from None
            raise _broken(name, error) from error
        except (Exception, SystemExit) as error:
            raise _broken(name, error) from error


def _is_part_of(missing: str | None, name: str) -> bool:
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _see(folder: Path) -> None:
    shown = str(folder)
    if shown not in sys.path:
        sys.path.insert(0, shown)


def _load_file(path: Path) -> ModuleType:
    """Import a file under the name that its neighbours would import it by."""
    path = path.absolute()
    _see(path.parent)
    known = sys.modules.get(path.stem)
    if known is None:
        return _execute(path, path.stem)
    if getattr(known, "__file__", None) == str(path):
        return known
    # Something else has the name: a module of the standard library, say.
    return _execute(path, f"{path.parent.name}_{path.stem}")


def _execute(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{str(path)!r} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    # Before it runs, as an import would: dataclasses and pickle look it up.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _broken(name: str, error: BaseException) -> UsersCodeError:
    text = str(error).rstrip(".")
    return UsersCodeError(
        f"{name!r} cannot be imported: {type(error).__name__}"
        f"{': ' + text if text else ''}{_place_of(error)}.",
        hint="Set DURABLE_DEBUG=1 for the traceback.",
    )


def _place_of(error: BaseException) -> str:
    """The innermost line outside of the import machinery."""
    if isinstance(error, SyntaxError):
        return ""  # its text names the place
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith("<frozen") and file != __file__:
            place = f" ({Path(file).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return place


def load_resources(target: str | None) -> Any:
    """What `--resources MODULE:NAME` names: a mapping, or what opens one.

    Raises: as `_load_object`.
    """
    return None if target is None else _load_object(target, "--resources")


def load_interceptors(target: str | None) -> list[Interceptor]:
    """What `--interceptors MODULE:NAME` names: one, or a list of them.

    Raises: as `_load_object`.
    """
    found = () if target is None else _load_object(target, "--interceptors")
    given: Iterable[Interceptor] = [found] if isinstance(found, Interceptor) else found
    try:
        Interceptors(given)
    except InvalidOptionError as error:
        raise click.UsageError(f"--interceptors {target!r}: {error.message}") from None
    return [*given]


def _load_object(target: str, option: str) -> Any:
    """What a module holds under a name.

    Raises:
        click.UsageError: there is no such thing.
        UsersCodeError: importing the module raised.
    """
    module_name, colon, name = target.rpartition(":")
    if not colon:
        raise click.UsageError(f"{option} {target!r} is not of the form MODULE:NAME.")
    module = load_module(module_name)
    found = vars(module).get(name)
    if found is None:
        raise click.UsageError(
            f"{option}: {module_name!r} has no {name!r}"
            f"{ending_with_closest(name, vars(module))}"
        )
    return found


# --- workflows ------------------------------------------------------------------------


def find_workflow(target: str) -> Workflow[Any, Any]:
    """The workflow that `MODULE:WORKFLOW` names, by its function or its own name.

    Raises:
        click.UsageError: there is none.
        UsersCodeError: importing the module raised.
    """
    module_name, _, name = target.rpartition(":")
    if not module_name:
        raise click.UsageError(f"{target!r} is not of the form MODULE:WORKFLOW.")
    module = load_module(module_name)
    known: dict[str, Workflow[Any, Any]] = {
        attribute: workflow
        for attribute, value in vars(module).items()
        if (workflow := workflow_of(value)) is not None
    }
    named = {workflow.name: workflow for workflow in known.values()}
    found = known.get(name) or named.get(name)
    if found is None:
        names = ", ".join(sorted(named)) or "none"
        raise click.UsageError(
            f"{module_name!r} has no workflow {name!r}; it has: {names}"
            f"{ending_with_closest(name, [*known, *named])}"
        )
    return found


def find_activity(target: str) -> Activity[..., Any]:
    """The activity that `MODULE:ACTIVITY` names, by its function or its own name.

    Raises: as `find_workflow`.
    """
    module_name, _, name = target.rpartition(":")
    module = load_module(module_name)
    known = {key: one for key, one in vars(module).items() if is_activity(one)}
    known |= {one.name: one for one in known.values()}
    if name not in known:
        names = ", ".join(sorted({one.name for one in known.values()})) or "none"
        raise click.UsageError(
            f"{module_name!r} has no activity {name!r}; it has: {names}"
            f"{ending_with_closest(name, known)}"
        )
    return known[name]


# --- input ----------------------------------------------------------------------------


class Arguments(NamedTuple):
    """Arguments of a workflow, still as JSON."""

    positional: list[msgspec.Raw]
    keyword: dict[str, msgspec.Raw]


def read_arguments(values: Sequence[str], text: str | None) -> Arguments:
    """Read arguments: one by one, or `--input`; JSON, `@file`, or `-` for stdin.

    Raises:
        click.UsageError: one of them is no JSON, `--input` is neither an array nor an
            object, or there are both.
    """
    if text is None:
        return Arguments(_read_values(values), {})
    if values:
        raise click.UsageError(
            f"Argument 1 is {values[0]!r}, but there is --input, too. Give the"
            " arguments in one of these ways."
        )
    try:
        decoded = _decoder.decode(_read_input(text, "--input"))
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise click.UsageError(
            "--input is an array of positional arguments or an object of keyword"
            f" arguments, as JSON: {error}."
        ) from None
    if isinstance(decoded, dict):
        return Arguments([], decoded)
    return Arguments(decoded, {})


def _read_values(given: Sequence[str]) -> list[msgspec.Raw]:
    return [_read_raw(text, f"argument {n}") for n, text in enumerate(given, start=1)]


def _read_raw(given: str, name: str) -> msgspec.Raw:
    try:
        text = _read_input(given, name)
        msgspec.json.decode(text)
        return msgspec.Raw(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        if given.startswith("--"):
            raise _no_such_option(given) from None
        raise click.UsageError(
            f"{name[:1].upper()}{name[1:]} is {given!r}, which is no JSON: {error}. A"
            """ text stands in double quotes, as in '"text"'."""
        ) from None


def read_value(text: str, name: str) -> Any:
    """Read one value as plain data: JSON, `@file`, or `-` for stdin.

    Args:
        text: what was given.
        name: how errors call it.

    Raises:
        click.UsageError: it is no JSON.
    """
    return msgspec.json.decode(_read_raw(text, name))


def _no_such_option(text: str) -> click.NoSuchOption:
    option = text.partition("=")[0]
    context = click.get_current_context(silent=True)
    known = () if context is None else context.command.params
    close = closest(option, [name for param in known for name in param.opts])
    return click.NoSuchOption(option, possibilities=[close] if close else None)


def _read_input(text: str, name: str) -> str:
    if text == "-":
        return sys.stdin.read()
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.UsageError(
            f"{name} names the file {text[1:]!r}, which cannot be read: {error}."
        ) from None


def make_call(workflow: Workflow[Any, Any], arguments: Arguments) -> WorkflowCall[Any]:
    """Call a workflow with JSON arguments, read by its annotations.

    Raises:
        InvalidCallError: they do not fit the signature.
        click.UsageError: a value does not fit its annotation.
    """
    return WorkflowCall(workflow, bind_arguments(workflow.call_signature, arguments))


def bind_arguments(signature: CallSignature, arguments: Arguments) -> Payloads:
    """Turn JSON arguments into payloads, read by the annotations of a signature.

    Raises: as `make_call`.
    """
    bound = signature.bind(tuple(arguments.positional), dict(arguments.keyword))
    values: list[Any] = []
    for index, value in enumerate(bound):
        if not isinstance(value, msgspec.Raw):
            values.append(value)  # a default between two values that were given
            continue
        hint, label = signature.hint_at(index), signature.label_at(index)
        try:
            values.append(json.decode(Payload(json=value), hint, label))
        except UndecodableError as error:
            raise click.UsageError(
                f"{label} does not fit its annotation: {error.__context__}."
            ) from None
    return signature.encode(tuple(values))


def plain_values(arguments: Arguments, instead: str) -> list[Any]:
    """The arguments as plain data, for code that is not at hand.

    Raises:
        click.UsageError: they are keyword arguments, which have no positions.
    """
    if arguments.keyword:
        raise click.UsageError(
            f"--input: keyword arguments need the code that takes them. {instead}"
        )
    return [msgspec.json.decode(value) for value in arguments.positional]
