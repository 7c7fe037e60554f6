"""The grants of docs/how-to/use-a-server.md are enough, also after the next upgrade."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from durable import Engine, Handle, activity, workflow
from durable.cli.main import cli
from tests.migrations.old_runs import DATABASES
from tests.migrations.test_server_upgrades import FIRST, ROOT, engine_of

PAGE = ROOT / "docs" / "how-to" / "use-a-server.md"
ROLES = ("owner", "app", "reader")


@activity(name="rights.hold")
async def hold(text: str) -> str:
    return text.upper()


@workflow(name="rights.order")
async def order(text: str) -> str:
    return await hold(text)


class Granting(msgspec.Struct):
    """A database of the first release, in which three roles have what the page says."""

    urls: dict[str, str]

    def ask(self, role: str, *arguments: str) -> tuple[int, str]:
        """Call the command line as this role; answer its exit code and all it said."""
        database = {"DURABLE_DATABASE_URL": self.urls[role]}
        done = CliRunner().invoke(cli, arguments, env=database)
        return done.exit_code, done.output


def blocks_of(page: Path, of: str) -> list[str]:
    """The statements of the SQL of a page that are for this kind of server."""
    blocks: list[str] = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    chosen = [text for text in blocks if (".*" in text) == (of == "mariadb")]
    return [part.strip() for text in chosen for part in text.split(";") if part.strip()]


@pytest.fixture(params=["postgresql", "mariadb"])
def granting(request: pytest.FixtureRequest) -> Iterator[Granting]:
    is_mariadb = request.param == "mariadb"
    server = request.getfixturevalue(
        "mariadb_server" if is_mariadb else "postgres_server"
    )
    root: str = request.getfixturevalue("mariadb_url" if is_mariadb else "postgres_url")
    database, mark = root.rpartition("/")[2], secrets.token_hex(4)
    names = {role: f"{role}_{mark}" for role in ROLES}
    user = re.compile(rf"\b({'|'.join(ROLES)})\b(?!\.)")
    urls = {
        role: re.sub(r"//\w+@", f"//{name}:sesame@", root)
        + ("" if is_mariadb else "?schema=durable")
        for role, name in names.items()
    }
    how = "IDENTIFIED BY 'sesame'" if is_mariadb else "LOGIN PASSWORD 'sesame'"
    for name in names.values():
        server.execute(f"CREATE {'USER' if is_mariadb else 'ROLE'} {name} {how}")
    grants = [
        user.sub(lambda found: names[found[1]], text).replace("app.*", f"{database}.*")
        for text in blocks_of(PAGE, request.param)
    ]
    tables = (DATABASES / f"{FIRST}.{request.param}.sql").read_text().split(";\n")[:-1]
    if is_mariadb:  # where only who is above all may grant
        run_all(root, grants)
        run_all(urls["owner"], tables)
    else:
        schema = f"CREATE SCHEMA durable AUTHORIZATION {names['owner']}"
        server.execute(schema, database)
        searched = ["SET search_path = durable"]
        run_all(urls["owner"].partition("?")[0], searched + tables + grants)
    yield Granting(urls)
    server.drop_database(root)
    for name in names.values():
        server.execute(f"DROP {'USER' if is_mariadb else 'ROLE'} {name}")


def run_all(url: str, statements: list[str]) -> None:
    with engine_of(url).begin() as connection:
        for text in statements:
            connection.execute(sa.text(text.replace(":", r"\:")))


async def work(url: str, workflow_id: str) -> str:
    async with Engine(url, definitions=[order, hold]) as engine:
        handle: Handle[str] = await engine.start(order("tea"), id=workflow_id)
        return await handle.result()


def test_roles_of_the_page_work_once_the_owner_has_upgraded(
    granting: Granting,
) -> None:
    early, refused = granting.ask("app", "list")
    upgraded, said = granting.ask("owner", "db", "upgrade")

    assert early != 0
    assert "durable db upgrade" in refused
    assert upgraded == 0, said
    assert asyncio.run(work(granting.urls["app"], "order-1")) == "TEA"
    for asked in (
        *("list", "show order-1", "history order-1", "workers", "doctor", "namespaces"),
        *("count --by WorkflowType", "queue list", "outbox list", "schedules list"),
    ):
        code, said = granting.ask("reader", *asked.split())
        assert code == 0, f"{asked}: {said}"
    for words in (
        ["start", f"{__name__}:order", "--input", '["tea"]'],
        ["delete", "order-1"],
    ):
        code, said = granting.ask("reader", *words)
        assert code == 7, said
        assert "does not allow this user to do that" in said
        assert "all else takes INSERT, UPDATE and DELETE on them" in said
        assert "sesame" not in said
    assert granting.ask("app", "show", "order-1")[0] == 0
