"""`durable replay`: recorded histories against today's code.

Nothing is written and no activity runs: a replayer takes the recorded events and checks
that the code asks for the same things again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import click
import msgspec

from durable.api.registry import REGISTRY
from durable.cli.connection import open_client
from durable.cli.loading import load_modules
from durable.cli.output import (
    escape,
    escape_lines,
    users_code_prints_to_stderr,
    write_json,
    write_line,
)
from durable.cli.parameters import run_id_option, standard_options
from durable.cli.session import Session, pass_session
from durable.cli.views import HIDDEN
from durable.cli.wording import failure_text
from durable.client.doctor import read_pages
from durable.clock import from_datetime
from durable.core.codec import decode_rows
from durable.core.events import HistoryEvent, WorkflowExecutionStarted
from durable.core.replayer import Replayer
from durable.core.workflow_task import WorkflowTask, WorkflowTaskFailure
from durable.errors import (
    CorruptHistoryError,
    DurableError,
    NondeterminismError,
    WorkflowStuckError,
)
from durable.store.records import HistoryRow, RunFilter
from durable.worker.guards import install_guards
