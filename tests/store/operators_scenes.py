"""What operators do to a run against whatever else befalls it: pause, reset, delete.

Scenes for `test_interleavings.py`. Retention deletes as `make_deletion` does.
"""

from __future__ import annotations

from typing import Any

from durable.options import IdConflictPolicy
from durable.store.records import (
    NEVER,
    ClaimRuns,
    CommitTask,
    DeleteRuns,
    ImportRun,
    ParkRun,
    PutMessage,
    ReapWorkers,
    ReplyRecord,
    ResetRun,
    RunStatus,
    StartRun,
)
from durable.testing.contract.keeping.imports import make_import
from durable.testing.contract.operators.pauses import PAUSED
from durable.testing.contract.operators.resets import make_reset
from durable.testing.contract.rows import (
    START,
    make_child,
    make_closing,
    make_commit,
    make_message,
    make_start,
    make_termination,
)
from tests.store.stage import Scene, owned

WHY = '{"reason": "enough"}'


def _due(p: str, name: str = "r") -> StartRun:
    return make_start(p + name, workflow_type=p, wake_at=1)


def _closed(p: str, name: str = "r", **changes: Any) -> StartRun:
    ends: dict[str, Any] = {"status": RunStatus.COMPLETED, "closed_at": START}
    return make_start(p + name, **(ends | changes))


def _pause(p: str) -> ParkRun:
    return ParkRun(run_id=p + "r", stuck=PAUSED, wake_at=NEVER)


def _asking(p: str, kind: str = "pause", request_id: str = "m") -> PutMessage:
    return make_message(p + "r", request_id, kind=kind)


def _rest(p: str, name: str = "r", **changes: Any) -> CommitTask:
    return make_commit(p + name, update_run=True, is_active=False, **changes)


def _reset(p: str, **changes: Any) -> ResetRun:
    fields: dict[str, Any] = {"moved_kinds": ("signal", "cancel", "pause", "resume")}
    return make_reset(p + "r", p + "s", **(fields | changes))


def _fork(p: str, **changes: Any) -> ResetRun:
    fields: dict[str, Any] = {"workflow_id": p + "s", "first_run_id": p + "s"}
    return make_reset(p + "r", p + "s", is_fork=True, **(fields | changes))


def make_deletion(p: str, *names: str, **how: Any) -> DeleteRuns:
    return DeleteRuns(run_ids=tuple(p + name for name in names or "r"), **how)


def _import(p: str, **changes: Any) -> ImportRun:
    return make_import(p + "r", **changes)


# --- pauses ---------------------------------------------------------------------------


def message_of_pause_and_turn(p: str) -> Scene:
    turn = make_commit(p + "r", update_run=True, sees_all_mail=True)
    return Scene(([owned(p)], []), [turn], [_asking(p)])


def message_of_pause_and_rest(p: str) -> Scene:
    return Scene(([owned(p)], []), [_rest(p)], [_asking(p)])


def message_of_pause_and_close(p: str) -> Scene:
    return Scene(([owned(p)], []), [make_closing(p + "r")], [_asking(p)])


def message_of_pause_and_continue_as_new(p: str) -> Scene:
    chain: dict[str, Any] = {"workflow_id": f"wf-{p}r", "first_run_id": p + "r"}
    then = owned(p, "s", continued_from_run_id=p + "r", **chain)
    status = RunStatus.CONTINUED_AS_NEW
    closing = make_closing(p + "r", status=status, starts=(then,))
    return Scene(([owned(p)], []), [closing], [_asking(p)])


def messages_of_pause_and_of_resume(p: str) -> Scene:
    resume = _asking(p, "resume", "go")
    return Scene(([make_start(p + "r")], []), [_asking(p)], [resume])


def pause_and_message(p: str) -> Scene:
    return Scene(([owned(p)], []), [_pause(p)], [_asking(p, "signal")])


def pause_and_resume(p: str) -> Scene:
    return Scene(([owned(p)], []), [_pause(p)], [_asking(p, "resume")])


def pause_and_start_of_its_id(p: str) -> Scene:
    how = IdConflictPolicy.USE_EXISTING
    letter = _asking(p, "signal")
    start = make_start(
        p + "s", workflow_id=f"wf-{p}r", conflict_policy=how, message_if_open=letter
    )
    return Scene(([owned(p)], []), [_pause(p)], [start])


def pause_and_termination(p: str) -> Scene:
    return Scene(([owned(p)], []), [_pause(p)], [make_termination(p + "r")])


def pause_and_reset(p: str) -> Scene:
    return Scene(([owned(p)], []), [_pause(p)], [_reset(p)])


def pause_and_reaper(p: str) -> Scene:
    reap = ReapWorkers(presumed_dead=(p + "1",))
    return Scene(([owned(p)], []), [_pause(p)], [reap], passes_by=True)


def pause_and_close_of_parent(p: str) -> Scene:
    child = make_child(p + "r", p + "a", "terminate", owner=p + "2")
    closing = make_closing(p + "a", has_children=True)
    return Scene(([owned(p, "a")], [child]), [closing], [_pause(p)])


def two_resumes_of_one_request(p: str) -> Scene:
    resume = _asking(p, "resume")
    return Scene(([owned(p), _pause(p)], []), [resume], [resume])


def resume_and_message(p: str) -> Scene:
    resume, message = _asking(p, "resume"), _asking(p, "signal", "word")
    return Scene(([owned(p), _pause(p)], []), [resume], [message])


def resume_and_claim(p: str) -> Scene:
    before = [owned(p, workflow_type=p), _pause(p)]
    claim = ClaimRuns(workflow_types=(p,), limit=2)
    resume = [_asking(p, "resume")]
    return Scene((before, []), resume, [claim], passes_by=True)


def resume_and_termination(p: str) -> Scene:
    end = make_termination(p + "r")
    return Scene(([owned(p), _pause(p)], []), [_asking(p, "resume")], [end])


def resume_and_reset(p: str) -> Scene:
    """The new run is not paused, whoever comes first."""
    resume = [_asking(p, "resume")]
    return Scene(([owned(p), _pause(p)], []), resume, [_reset(p)])


# --- resets and forks -----------------------------------------------------------------


def reset_and_turn(p: str) -> Scene:
    turn = make_commit(p + "r", update_run=True)
    return Scene(([owned(p)], []), [turn], [_reset(p)])


def reset_and_rest(p: str) -> Scene:
    return Scene(([owned(p)], []), [_rest(p)], [_reset(p)])


def reset_and_close(p: str) -> Scene:
    return Scene(([owned(p)], []), [make_closing(p + "r")], [_reset(p)])


def reset_of_closed_run_and_message(p: str) -> Scene:
    reset = _reset(p, expected=((p + "r", 2, False),))
    return Scene(([_closed(p)], []), [reset], [_asking(p, "signal")])


def reset_and_message(p: str) -> Scene:
    return Scene(([owned(p)], []), [_reset(p)], [_asking(p, "signal")])


def reset_and_message_to_the_run(p: str) -> Scene:
    message = make_message(p + "r", "m", run_id=p + "r")
    return Scene(([owned(p)], []), [_reset(p)], [message])


def reset_and_start_of_its_id(p: str) -> Scene:
    reset = _reset(p, expected=((p + "r", 2, False),))
    start = make_start(p + "t", workflow_id=f"wf-{p}r")
    return Scene(([_closed(p)], []), [reset], [start])


def reset_and_start_that_uses_what_is_open(p: str) -> Scene:
    start = make_start(
        p + "t",
        workflow_id=f"wf-{p}r",
        conflict_policy=IdConflictPolicy.USE_EXISTING,
        message_if_open=_asking(p, "signal"),
    )
    return Scene(([owned(p)], []), [_reset(p)], [start])


def reset_and_superseding_start(p: str) -> Scene:
    start = make_start(
        p + "t",
        workflow_id=f"wf-{p}r",
        conflict_policy=IdConflictPolicy.TERMINATE_EXISTING,
        terminated_data=WHY,
    )
    return Scene(([owned(p)], []), [_reset(p)], [start])


def reset_and_termination(p: str) -> Scene:
    return Scene(([owned(p)], []), [_reset(p)], [make_termination(p + "r")])


def two_resets(p: str) -> Scene:
    one, other = (
        make_reset(p + "r", p + name, request_id=p + name) for name in ("s", "t")
    )
    return Scene(([owned(p)], []), [one], [other])


def two_resets_of_one_request(p: str) -> Scene:
    one, other = (make_reset(p + "r", p + name, request_id=p) for name in ("s", "t"))
    return Scene(([owned(p)], []), [one], [other])


def reset_and_child(p: str) -> Scene:
    """A child that the reset does not know has the reset look again."""
    start = make_child(p + "c", p + "r", "terminate", owner=p + "2")
    return Scene(([owned(p)], []), [_reset(p)], [start])


def reset_that_keeps_a_child_and_its_close(p: str) -> Scene:
    child = make_child(p + "c", p + "r", "terminate", owner=p + "2")
    reset = _reset(p, kept_children=(p + "c",))
    news = make_message(p + "r", "child", kind="child", run_id=p + "r")
    closing = make_closing(p + "c", messages=(news,))
    return Scene(([owned(p)], [child]), [reset], [closing])


def reset_that_undoes_a_child_and_its_turn(p: str) -> Scene:
    child = make_child(p + "c", p + "r", "terminate", owner=p + "2")
    reset = _reset(p, undone_children=(p + "c",))
    return Scene(([owned(p)], [child]), [reset], [make_commit(p + "c")])


def reset_and_claim(p: str) -> Scene:
    claim = ClaimRuns(workflow_types=(p,), limit=2)
    return Scene(([_due(p)], []), [_reset(p)], [claim], passes_by=True)


def reset_and_reaper(p: str) -> Scene:
    reap = ReapWorkers(presumed_dead=(p + "1",))
    return Scene(([owned(p)], []), [_reset(p)], [reap], passes_by=True)


def fork_and_turn(p: str) -> Scene:
    turn = make_commit(p + "r", update_run=True)
    return Scene(([owned(p)], []), [turn], [_fork(p)])


def fork_and_close(p: str) -> Scene:
    return Scene(([owned(p)], []), [make_closing(p + "r")], [_fork(p)])


def fork_and_start_of_its_id(p: str) -> Scene:
    start = make_start(p + "t", workflow_id=p + "s")
    return Scene(([owned(p)], []), [_fork(p)], [start])


# --- deletes and imports --------------------------------------------------------------


def deletion_and_close(p: str) -> Scene:
    return Scene(([owned(p)], []), [make_closing(p + "r")], [make_deletion(p)])


def deletion_and_turn(p: str) -> Scene:
    return Scene(([owned(p)], []), [make_commit(p + "r")], [make_deletion(p)])


def deletion_and_message(p: str) -> Scene:
    message = make_message(p + "r", run_id=p + "r")
    return Scene(([_closed(p)], []), [make_deletion(p)], [message])


def deletion_and_start_of_its_id(p: str) -> Scene:
    start = make_start(p + "t", workflow_id=f"wf-{p}r")
    return Scene(([_closed(p)], []), [make_deletion(p)], [start])


def deletion_and_start_of_its_request(p: str) -> Scene:
    start = make_start(p + "t", request_id=f"start-{p}r")
    return Scene(([_closed(p)], []), [make_deletion(p)], [start])


def deletion_and_start_of_its_run_id(p: str) -> Scene:
    start = make_start(p + "r", request_id=p, workflow_id=p)
    return Scene(([_closed(p)], []), [make_deletion(p)], [start])


def deletion_and_reset(p: str) -> Scene:
    reset = _reset(p, expected=((p + "r", 2, False),))
    return Scene(([_closed(p)], []), [make_deletion(p)], [reset])


def deletion_and_fork(p: str) -> Scene:
    fork = _fork(p, expected=((p + "r", 2, False),))
    return Scene(([_closed(p)], []), [make_deletion(p)], [fork])


def deletion_and_deletion(p: str) -> Scene:
    before = [_closed(p, name) for name in "ab"]
    one, other = make_deletion(p, "a", "b"), make_deletion(p, "b", "a")
    return Scene((before, []), [one], [other])


def deletion_and_import(p: str) -> Scene:
    return Scene(([_closed(p)], []), [make_deletion(p)], [_import(p)])


def deletion_of_child_and_turn_of_its_parent(p: str) -> Scene:
    """A parent that comes to rest needs its child no more."""
    child = _closed(p, "c", parent_run_id=p + "r", parent_close_policy="abandon")
    return Scene(([owned(p), child], []), [_rest(p)], [make_deletion(p, "c")])


def deletion_of_child_and_close_of_its_parent(p: str) -> Scene:
    child = _closed(p, "c", parent_run_id=p + "r", parent_close_policy="abandon")
    closing = make_closing(p + "r", has_children=True)
    return Scene(([owned(p), child], []), [closing], [make_deletion(p, "c")])


def deletion_of_parent_and_close_of_its_child(p: str) -> Scene:
    child = make_child(p + "c", p + "r", "abandon", owner=p + "2")
    return Scene(
        ([owned(p)], [child]),
        [make_closing(p + "r", has_children=True), make_deletion(p)],
        [make_closing(p + "c")],
    )


def deletion_of_first_run_and_continue_as_new(p: str) -> Scene:
    chain: dict[str, Any] = {"workflow_id": f"wf-{p}r", "first_run_id": p + "r"}
    then = owned(p, "s", continued_from_run_id=p + "r", **chain)
    status = RunStatus.CONTINUED_AS_NEW
    closing = make_closing(p + "r", status=status, starts=(then,))
    return Scene(([owned(p)], []), [closing], [make_deletion(p)])


def deletion_and_reply(p: str) -> Scene:
    """The reply of a close keeps the run."""
    reply = ReplyRecord(run_id=p + "r", request_id="q", data="{}", created_at=START)
    closing = make_closing(p + "r", replies=(reply,))
    return Scene(([owned(p)], []), [closing], [make_deletion(p)])


def import_and_start_of_its_id(p: str) -> Scene:
    start = make_start(p + "t", workflow_id=f"wf-{p}r")
    return Scene(([], []), [_import(p)], [start])


def import_and_start_of_its_request(p: str) -> Scene:
    start = make_start(p + "t", request_id=f"start-{p}r")
    return Scene(([], []), [_import(p)], [start])


def two_imports(p: str) -> Scene:
    return Scene(([], []), [_import(p)], [_import(p)])
