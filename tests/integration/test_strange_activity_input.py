"""Whatever activities and queues are asked with is answered, or refused by type."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

import pytest

from durable import Engine
from durable.errors import DurableError

NINES: Final = "9" * 5_000
TOKENS: Final[list[object]] = [
    *("", "x", "r.1.1", "r.1.1.1", "r.1.1.1\n", "r.-1.1.1", "r.٣.1.1", "r.².1.1"),
    *(f"r.{NINES[:18]}.1.1", f"r.1.{NINES[:18]}.1", f"r.1.1.{NINES[:18]}"),
    *(f"r.{NINES}.1.1", f"r:{NINES}", f"r:{NINES[:18]}", f"{NINES}.1.1.1", "r:1"),
    *("\0.1.1.1", "\ud800.1.1.1", "\ud800:1", "\0:1", ":1", ".1.1.1"),
    *(1, b"r.1.1.1", ["r.1.1.1"], object()),
]
IDS: Final[list[object]] = [
    *("", "x", "\0", "\ud800", NINES, "a\nb", " a", "é" * 200, "' OR 1=1 --"),
    *(1, b"x", ["x"]),
]
BY_TOKEN: Final = (
    *("complete", "fail", "cancel", "heartbeat"),
    *("pause", "unpause", "reset", "describe"),
)


@pytest.mark.sweep(1)
async def test_f1_no_token_id_or_name_does_more_than_be_refused(shop_url: str) -> None:
    escaped: list[str] = []

    async def ask(
        call: Callable[..., Awaitable[object]], *args: Any, **kw: Any
    ) -> None:
        try:
            await call(*args, **kw)
        except Exception as error:  # noqa: BLE001 - the very thing that is looked for
            if not isinstance(error, DurableError) or len(str(error)) > 1_500:
                asked = f"{call.__name__} {args!r:.60} {kw!r:.60}"
                escaped.append(f"{asked}: {error!r:.200}")

    async with Engine(shop_url, worker=False) as engine:
        activities, queues = engine.activities, engine.queues
        for token in TOKENS:
            for name in BY_TOKEN:
                await ask(getattr(activities, name), token)
        for value in IDS:
            for kw in (
                {"workflow_id": value, "activity_id": "1"},
                {"workflow_id": "w", "activity_id": value},
                {"workflow_id": "w", "activity_id": "1", "run_id": value},
            ):
                await ask(activities.complete, **cast(Any, kw))
            for key in ("task_queue", "activity_type", "state", "workflow_id", "limit"):
                await ask(activities.list, **cast(Any, {key: value}))
            for name in ("get", "resume", "delete", "configure", "pause"):
                await ask(getattr(queues, name), value)
                await ask(getattr(queues.runs, name), value)
    assert not escaped
