"""Runs are found by attributes, workflow, status and end; namespaces have settings.

Programs of the release before go on: what they start has no attributes.
This file is history: later changes come as later revisions, never here.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_SERVERS = {"mariadb": "utf8mb4_nopad_bin", "mysql": "utf8mb4_0900_bin"}


def _id(length: int = 255) -> sa.String:
    found = sa.String(length)
    for dialect, collation in ({"postgresql": "C"} | _SERVERS).items():
        found = found.with_variant(sa.String(length, collation=collation), dialect)
    return found


def _place() -> sa.String:
    return (
        sa.String(255)
        .with_variant(sa.VARBINARY(255), *_SERVERS)
        .with_variant(sa.String(255, collation="C"), "postgresql")
    )


def _json() -> sa.Text:
    return sa.Text().with_variant(sa.Text(2**32 - 1), "mysql", "mariadb")


def _tables() -> dict[str, list[sa.schema.SchemaItem]]:
    return {
        "durable_attributes": [
            sa.Column("run_id", _id(), primary_key=True),
            sa.Column("name", _id(64), primary_key=True),
            sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("namespace", _place(), nullable=False),
            sa.Column("started_at", sa.BigInteger, nullable=False),
            sa.Column("keyword", _id()),
            sa.Column("number", sa.BigInteger),
        ],
        "durable_attribute_kinds": [
            sa.Column("namespace", _place(), primary_key=True),
            sa.Column("name", _id(64), primary_key=True),
            sa.Column("kind", _id(32), nullable=False),
        ],
        "durable_namespaces": [
            sa.Column("namespace", _place(), primary_key=True),
            sa.Column("created_at", sa.BigInteger, nullable=False),
            sa.Column("retention_days", sa.Integer),
            sa.Column("description", _json()),
        ],
    }


def _indexes(dialect: str) -> list[tuple[str, str, list[str], str | None]]:
    def listed(name: str) -> str:
        return f"({name} || '')" if dialect == "postgresql" else name

    runs, of = "durable_runs", "durable_attributes"
    ordered = ["started_at", "run_id"]
    return [
        ("type", runs, [listed("workflow_type"), "namespace", "started_at"], None),
        ("status", runs, [listed("status"), "namespace", "started_at"], None),
        ("closed_at", runs, [listed("namespace"), "closed_at"], "closed_at"),
        ("keyword", of, ["namespace", "name", "keyword", *ordered], "keyword"),
        ("number", of, ["namespace", "name", "number", *ordered], "number"),
    ]


def _read_present() -> set[str]:
    """Names of tables, of columns of runs, and of indexes."""
    if op.get_context().as_sql:
        return set()
    found = sa.inspect(op.get_bind())
    present = {column["name"] for column in found.get_columns("durable_runs")}
    for table in ("durable_runs", *_tables()):
        if found.has_table(table):
            present.add(table)
            present |= {str(index["name"]) for index in found.get_indexes(table)}
    return present


def upgrade() -> None:
    dialect = op.get_context().dialect.name
    # What a killed upgrade has made stays on MariaDB: go on from there.
    present = _read_present() if dialect in _SERVERS else set()
    for name in ("attributes", "memo"):
        if name not in present:
            op.add_column("durable_runs", sa.Column(name, _json()))
    options: dict[str, Any] = {"sqlite_with_rowid": False}
    if dialect in _SERVERS:
        options = {
            f"{dialect}_engine": "InnoDB",
            f"{dialect}_row_format": "DYNAMIC",
            f"{dialect}_charset": "utf8mb4",
            f"{dialect}_collate": _SERVERS[dialect],
        }
    for table, columns in _tables().items():
        if table not in present:
            op.create_table(table, *columns, **options)
    for name, table, columns_of, given in _indexes(dialect):
        full_name = f"{table}_{name}"
        if full_name in present:
            continue
        where = None if given is None else sa.text(f"{given} IS NOT NULL")
        op.create_index(
            full_name,
            table,
            [sa.text(c) if c.startswith("(") else c for c in columns_of],
            sqlite_where=where,
            postgresql_where=where,
        )
