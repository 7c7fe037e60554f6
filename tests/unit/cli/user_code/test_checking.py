"""Messages of the command line are checked by the code that is given, then sent."""

import types
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest

from durable import Entity, StateMachine, entity, exclusive
from durable.api.registry import REGISTRY
from durable.api.workflows.workflow_definition import workflow_of
from durable.cli.user_code import checking
from durable.cli.user_code.loading import Arguments
from durable.errors import InvalidCallError
from tests.unit.cli import messages_app as app
from tests.unit.cli.commands.test_messaging import template
from tests.unit.cli.invoking import error_of, invoke, lines_of

__all__ = ["template"]  # a fixture

APP = str(Path(app.__file__))

machine = StateMachine("cli_machine", data=int, initial="new", final={"paid"})


@machine.transition("new", "paid")
async def pay(data: int, cents: int) -> int:
    return data + cents


@entity(name="cli_stock")
class Stock(Entity):
    left: int = 9

    @exclusive
    def take(self, n: int) -> None:
        self.left -= n


REFUSED = [
    (
        ("signal", "open", "ptu", '"tea"'),
        "Workflow 'cli_cart' takes no signal 'ptu'; it takes: approved(bool),"
        " put(item: str, n: int = ...) -> None; did you mean 'put'?",
    ),
    (
        ("update", "open", "pya", "1"),
        "Workflow 'cli_cart' takes no update 'pya'; it takes: pay(amount: int) -> str;"
        " did you mean 'pay'?",
    ),
    (
        ("query", "open", "conut", '"tea"'),
        "Workflow 'cli_cart' takes no query 'conut'; it takes: count(item: str) -> int;"
        " did you mean 'count'?",
    ),
    (
        ("update", "club", "pay", "1"),
        "Workflow 'cli_club' takes no update 'pay'; it takes: none.",
    ),
    (
        ("signal", "open", "put"),
        "put(item: str, n: int = ...) -> None was called wrongly: missing a required"
        " argument: 'item'.",
    ),
    (
        ("signal", "open", "put", '"tea"', '"two"'),
        "argument 'n' of 'put' does not fit its annotation: Expected `int`, got `str`.",
    ),
    (
        ("update", "open", "pay", "--input", '{"amuont": 1}'),
        "pay(amount: int) -> str was called wrongly: missing a required argument:"
        " 'amount'.",
    ),
    (
        ("query", "open", "count", "3"),
        "argument 'item' of 'count' does not fit its annotation: Expected `str`, got"
        " `int`.",
    ),
    (
        ("signal", "open", "approved", "3"),
        "The value of signal 'approved' is of type bool: Expected `bool`, got `int`.",
    ),
    (
        ("signal", "open", "approved", "true", "false"),
        "The value of signal 'approved' is of type bool: Signal 'approved' came with 2"
        " arguments; it takes one.",
    ),
]


@pytest.mark.parametrize(
    ("args", "message"), REFUSED, ids=[" ".join(args) for args, _ in REFUSED]
)
def test_message_that_the_code_does_not_take_is_not_sent(
    args: tuple[str, ...], message: str, folder: Path
) -> None:
    done = invoke(*args, "-m", APP, "--json")

    assert done.exit_code == 2
    assert error_of(done)["message"] == message
    (shown,) = lines_of(invoke("show", args[1], "--json"))
    assert shown["waiting_messages"] == 0


def test_without_the_code_a_message_is_sent_as_it_is(folder: Path) -> None:
    assert invoke("signal", "open", "ptu", "[]").exit_code == 0

    (shown,) = lines_of(invoke("show", "open", "--json"))
    assert shown["waiting_messages"] == 1


def test_keywords_find_their_positions_by_the_code(folder: Path) -> None:
    given = '{"n": 4, "item": "milk"}'
    assert invoke("signal", "open", "put", "--input", given).exit_code == 2

    assert invoke("signal", "open", "put", "--input", given, "-m", APP).exit_code == 0

    asked = ("query", "open", "count", "--input", '{"item": "milk"}', "-m", APP)
    assert lines_of(invoke(*asked)) == [4]


def test_channel_is_taken_from_the_code_that_is_loaded(folder: Path) -> None:
    done = invoke("signal", "member-eve", "approved", "true", "-m", APP)

    assert done.exit_code == 0


def test_module_that_does_not_define_the_workflow_is_named(folder: Path) -> None:
    Path("cli_other.py").write_text(
        "from durable import workflow\n\n\n@workflow\nasync def cli_crat(): ...\n"
    )
    taken = dict(REGISTRY.workflows)
    REGISTRY.workflows.clear()
    try:
        done = invoke("signal", "open", "put", '"tea"', "-m", "cli_other.py", "--json")
    finally:
        REGISTRY.workflows.clear()
        REGISTRY.workflows.update(taken)

    assert done.exit_code == 2
    assert error_of(done)["message"] == (
        "The run is of workflow 'cli_cart', which cli_other.py does not define; it"
        " defines: cli_crat; did you mean 'cli_crat'?"
    )


# --- what is set at run time ----------------------------------------------------------

HEAD = "import durable\nfrom durable import Signal, set_signal_handler\n"
SPELT = [
    'async def w():\n    set_signal_handler("late", print)\n',
    'async def w():\n    durable.set_signal_handler("late", print)\n',
    "from durable import set_signal_handler as on\n"
    'async def w():\n    on("late", print)\n',
    'async def w():\n    await Signal("late", int).receive()\n',
    'async def w():\n    await Signal[int]("late", int).receive()\n',
    'late = Signal("late", int)\nasync def w():\n    set_signal_handler(late, print)\n',
]
OPEN = [
    "async def w(name):\n    set_signal_handler(name, print)\n",
    "async def w():\n    set_signal_handler(None, print)\n",
    'async def w(n):\n    await Signal(f"late-{n}", int).receive()\n',
    "handle = set_signal_handler\n",
    "handles = [durable.set_signal_handler]\n",
]
CLOSED = [
    "async def w():\n    return 1\n",
    "def take(given: Signal[int]) -> Signal[int]:\n    kept: Signal[int] = given\n",
]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def load(source: str) -> None:
        path = tmp_path / "late_app.py"
        path.write_text(HEAD + source)
        module = types.ModuleType("late_app")
        module.__file__ = str(path)
        exec(compile(HEAD + source, path, "exec"), vars(module))  # noqa: S102 - a module
        monkeypatch.setattr(checking, "_modules", lambda: iter([module, app]))

    return load


@pytest.mark.parametrize("source", SPELT)
def test_signal_that_code_takes_as_it_runs_is_sent(
    source: str, folder: Path, load: Callable[[str], None]
) -> None:
    load(source)

    done = invoke("signal", "open", "late", "[]", "-m", APP)
    other = invoke("signal", "open", "ltae", "[]", "-m", APP)

    assert (done.exit_code, done.stderr) == (0, "")
    assert other.exit_code == 2
    assert "did you mean 'late'?" in other.stderr


@pytest.mark.parametrize("source", OPEN)
def test_signal_that_code_may_take_as_it_runs_is_sent_with_a_note(
    source: str, folder: Path, load: Callable[[str], None]
) -> None:
    load(source)

    done = invoke("signal", "open", "late", "[]", "-m", APP)

    assert done.exit_code == 0
    assert "takes no signal 'late'; it takes: " in done.stderr
    assert "It is sent, since its code may set a handler as it runs." in done.stderr
    assert invoke("signal", "open", "put", "[]", "-m", APP).exit_code == 2


@pytest.mark.parametrize("source", CLOSED)
def test_code_that_only_speaks_of_channels_sets_nothing(
    source: str, folder: Path, load: Callable[[str], None]
) -> None:
    load(source)

    assert invoke("signal", "open", "late", "[]", "-m", APP).exit_code == 2


# --- other kinds of workflows ---------------------------------------------------------


def given(*values: str) -> Arguments:
    return Arguments([msgspec.Raw(value.encode()) for value in values], {})


def test_events_of_a_state_machine_are_checked_as_updates() -> None:
    (call,) = checking.checked_call("update", machine, "pay", given("5"))

    assert (call.name, call.input) == ("pay", machine.fire("pay", 5).input)
    with pytest.raises(InvalidCallError, match=r"takes: pay\(cents: int\).*'pay'\?"):
        checking.checked_call("update", machine, "pya", given("5"))
    with pytest.raises(click.UsageError, match="'cents' of 'pay' does not fit"):
        checking.checked_call("update", machine, "pay", given('"five"'))
    assert checking.checked_call("query", machine, "any", given()) == ("any",)


def test_messages_of_an_entity_are_left_to_its_own_calls() -> None:
    definition = workflow_of(Stock)

    sent = checking.checked_call("update", definition, "tkae", given("5"))

    assert sent == ("tkae", 5)


def test_messages_of_unknown_code_are_sent_as_they_are() -> None:
    assert checking.checked_call("signal", None, "x", given("[1]")) == ("x", [1])
