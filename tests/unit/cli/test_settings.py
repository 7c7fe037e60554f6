"""Where settings come from, and which of them wins."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from durable.cli.main import cli
from durable.cli.session import DEFAULT_URL, Session
from durable.cli.settings import read_settings


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "DATABASE_URL_FILE", "NAMESPACE", "CONFIG", "QUEUES"):
        monkeypatch.delenv(f"DURABLE_{name}", raising=False)
    return tmp_path


def url_of(*args: str, **environment: str) -> str:
    """The database that a command would use, as its error names it."""
    done = CliRunner().invoke(cli, [*args, "db", "current"], env=environment)
    assert done.exit_code == 7, done.output
    return done.stderr


def test_flag_wins_over_environment_over_file_over_default(folder: Path) -> None:
    environment = {"DURABLE_DATABASE_URL": "sqlite:///env.db"}
    assert "durable.db" in url_of()

    (folder / "durable.toml").write_text('database_url = "sqlite:///file.db"\n')
    assert "file.db" in url_of()
    assert "env.db" in url_of(**environment)
    assert "flag.db" in url_of("--database", "sqlite:///flag.db", **environment)


def test_url_may_stand_in_a_file_of_its_own(folder: Path) -> None:
    (folder / "durable.toml").write_text('database_url = "sqlite:///file.db"\n')
    (folder / "secret").write_text("sqlite:///secret.db\n")
    environment = {"DURABLE_DATABASE_URL_FILE": "secret"}

    assert "secret.db" in url_of(**environment)
    assert "env.db" in url_of(DURABLE_DATABASE_URL="sqlite:///env.db", **environment)

    done = CliRunner().invoke(
        cli, ["list"], env={"DURABLE_DATABASE_URL_FILE": "nothing"}
    )
    assert done.exit_code == 2
    assert "DURABLE_DATABASE_URL_FILE names 'nothing'" in done.stderr


def test_database_may_be_named_after_the_command_too() -> None:
    done = CliRunner().invoke(cli, ["list", "--database", "sqlite:///late.db"])

    assert done.exit_code == 7
    assert "late.db" in done.stderr


def test_file_can_be_named(folder: Path) -> None:
    (folder / "other.toml").write_text('database_url = "sqlite:///other.db"\n')

    assert "other.db" in url_of("--config", "other.toml")
    assert "other.db" in url_of(DURABLE_CONFIG="other.toml")
    done = CliRunner().invoke(cli, ["--config", "no.toml", "list"])
    assert done.exit_code == 2
    assert "no.toml" in done.stderr


def test_pyproject_has_a_table_for_it_and_durable_toml_comes_first(
    folder: Path,
) -> None:
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "x"\n[tool.durable]\ndatabase_url = "sqlite:///py.db"\n'
    )
    assert "py.db" in url_of()

    (folder / "durable.toml").write_text('namespace = "x"\n')
    assert "durable.db" in url_of()


def test_settings_of_the_worker_become_defaults_of_its_options(folder: Path) -> None:
    (folder / "durable.toml").write_text(
        'queues = ["a", "b"]\nmax_activities = 7\ndrain_timeout = "1s"\n'
        "metrics = false\n"
    )

    assert read_settings(None) == {
        "worker": {
            "queues": ["a", "b"],
            "max_activities": 7,
            "drain_timeout": "1s",
            "metrics": False,
        }
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("databse_url = 'x'", "unknown key 'databse_url'"),
        ("[worker]\nqueues = []", "unknown key 'worker'"),
        ("database_url = 3", "database_url is 3, of the wrong type"),
        ("max_activities = true", "max_activities is True, of the wrong type"),
        ("metrics = 1", "metrics is 1, of the wrong type"),
        ("queues = 'a'", "queues is 'a', of the wrong type"),
        ("namespace =", "is no TOML"),
    ],
)
def test_faulty_file_is_wrong_usage(text: str, complaint: str, folder: Path) -> None:
    (folder / "durable.toml").write_text(text)

    done = CliRunner().invoke(cli, ["list"])

    assert done.exit_code == 2
    assert complaint in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("text", ["tool = 3", "[tool]\ndurable = 3"])
def test_faulty_table_of_pyproject_is_wrong_usage(text: str, folder: Path) -> None:
    (folder / "pyproject.toml").write_text(text)

    with pytest.raises(click.UsageError, match=r"tool\.durable is no table"):
        read_settings(None)


def test_other_tables_of_pyproject_do_not_matter(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool.other]\nx = 1\n")

    assert read_settings(None) == {}


# --- what a URL says ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (DEFAULT_URL, ("durable.db", False)),
        ("sqlite:////var/lib/a.db?synchronous=normal", ("/var/lib/a.db", False)),
        ("SQLite:///a.db", ("a.db", False)),
        ("sqlite://", (None, True)),
        ("sqlite:///:memory:", (None, True)),
        ("memory://", (None, True)),
        ("memory://name", (None, True)),
        ("postgresql://h/db", (None, False)),
        ("sqlite://a.db", (None, False)),
        ("nonsense", (None, False)),
    ],
)
def test_url_says_where_the_database_is(url: str, expected: tuple[Any, bool]) -> None:
    session = Session(database_url=url)
    path = session.find_file()

    assert (None if path is None else str(path), session.is_in_memory) == expected


@pytest.mark.parametrize(
    ("url", "secrets"),
    [
        ("postgresql://u:p%40ss@h/db", {"p%40ss", "p@ss"}),
        ("postgresql://u:p w'd@h/db", {"p w'd"}),
        ("postgresql://u@h/db", set()),
        ("sqlite:///a.db", set()),
    ],
)
def test_every_spelling_of_the_password_is_secret(url: str, secrets: set[str]) -> None:
    assert set(Session(database_url=url).secrets()) == secrets
