"""What is asked for in a transaction, as a row of the outbox, and back."""

from __future__ import annotations

import random
import re
import secrets
import threading
from typing import Any, Final

import msgspec

from durable.api.interceptors.chains import checked_headers, settle
from durable.api.interceptors.interceptor import (
    CancelWorkflowInput,
    SignalWorkflowInput,
    StartUpdateInput,
)
from durable.api.messages.messages import (
    SignalCall,
    UpdateCall,
    signal_call,
    update_call,
)
from durable.api.workflows.workflow import Workflow, WorkflowCall
from durable.client.client import Client
from durable.client.start_options import StartOptions, StartSettings, start_settings
from durable.core.history.codec import UNREADABLE, encode_attributes
from durable.core.history.events import (
    WorkflowExecutionCancelRequested,
    WorkflowExecutionSignaled,
    WorkflowExecutionStarted,
)
from durable.core.history.ids import RunIds
from durable.core.messages import encode_message
from durable.core.workflow_task import UpdateRequest, update_request_id
from durable.errors import CorruptHistoryError
from durable.options import IdConflictPolicy, IdReusePolicy, check_id, spell_out
from durable.store.records import MessageKind, OutboxKind, OutboxRecord, PutMessage

_NOT_ASCII: Final = re.compile(r"[^\x00-\x7f]+")


class OutboxStart(msgspec.Struct, frozen=True, omit_defaults=True):
    """A start as its row keeps it; the policies are those that hold.

    Attributes:
        started: the event that the run is to begin with.
        signal: the event of a signal that comes with it.
    """

    started: WorkflowExecutionStarted
    on_conflict: IdConflictPolicy
    id_reuse: IdReusePolicy
    signal: WorkflowExecutionSignaled | None = None

    @property
    def settings(self) -> StartSettings:
        """How it is started."""
        return StartSettings(
            workflow_id=self.started.workflow_id,
            on_conflict=self.on_conflict,
            id_reuse=self.id_reuse,
            first=self.signal,
        )


_read_start: Final = msgspec.json.Decoder(OutboxStart).decode
_read_message: Final = msgspec.json.Decoder(PutMessage).decode


def read_request(row: OutboxRecord) -> OutboxStart | PutMessage:
    """Return what a row asks for.

    Raises:
        CorruptHistoryError: no release up to this one wrote such a row.
    """
    if row.damage is not None:
        raise CorruptHistoryError(row.damage)
    try:
        if row.kind == OutboxKind.START.value:
            start = _read_start(row.data)
            where = (start.started.namespace, start.started.workflow_id)
            found: OutboxStart | PutMessage = start
        elif row.kind == OutboxKind.MESSAGE.value:
            found = message = _read_message(row.data)
            where = (message.namespace, message.workflow_id)
        else:
            raise ValueError(f"there is no kind {row.kind!r}")
        if where != (row.namespace, row.target):
            raise ValueError("it is for another run than its row says")
    except UNREADABLE as error:
        raise CorruptHistoryError(
            f"Row {row.sequence} of the outbox cannot be read: {error}.",
            hint="A newer release may have written it, or somebody else: see it with"
            " 'durable outbox list', and drop it if nobody needs it.",
        ) from None
    return found


class Requests:
    """Makes rows of the outbox for one client; any thread may ask."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._run_ids = RunIds()
        self._entropy = random.Random(secrets.randbits(256))  # noqa: S311 - ids must differ, not be secret

    def _new_id(self) -> str:
        with self._lock:
            now = self.client.store.now()
            return self._run_ids.make(now, self._entropy.getrandbits(74))

    def start(
        self, call: WorkflowCall[Any] | str, args: tuple[Any, ...], given: StartOptions
    ) -> tuple[OutboxRecord, OutboxStart, Workflow[Any, Any] | None]:
        """Return the row of a start, what it says, and the workflow if it is known.

        Raises: as `Engine.start` does for what is not fit to be written.
        """
        how = start_settings(given)
        with_signal = given.get("with_signal")
        if with_signal is not None:
            how = self.client.with_signal(how, with_signal)
        started, how, definition = self.client.prepare(call, args, how, self._new_id())
        start = OutboxStart(started, how.conflict_policy, how.reuse_policy, how.first)
        data = msgspec.json.encode(start)
        kind, target = OutboxKind.START, started.workflow_id
        return self._row(started.run_id, target, kind, data), start, definition

    def signal(
        self,
        target: str,
        call: SignalCall | str,
        args: tuple[Any, ...],
        request_id: str | None,
    ) -> OutboxRecord:
        """Return the row of a signal.

        Raises: as `Handle.signal` does for what is not fit to be sent.
        """
        made = signal_call(call, args)
        request_id = _request_id(request_id)
        given = SignalWorkflowInput(
            workflow_id=target, signal_name=made.name, input=made.input
        )
        given = settle(self.client.interceptors, "signal_workflow", given)
        event = WorkflowExecutionSignaled(
            signal_name=made.name,
            input=given.input,
            request_id=request_id,
            identity=self.client.identity,
            headers=checked_headers(given.headers, f"of signal {made.name!r}"),
        )
        data = encode_attributes(event)
        return self._message(target, MessageKind.SIGNAL, request_id, data)

    def cancel(self, target: str, reason: str, request_id: str | None) -> OutboxRecord:
        """Return the row of a request to stop."""
        request_id = _request_id(request_id)
        given = CancelWorkflowInput(workflow_id=target, reason=reason)
        given = settle(self.client.interceptors, "cancel_workflow", given)
        event = WorkflowExecutionCancelRequested(
            reason=spell_out(given.reason),
            request_id=request_id,
            identity=self.client.identity,
        )
        data = encode_attributes(event)
        return self._message(target, MessageKind.CANCEL, request_id, data)

    def update(
        self,
        target: str,
        call: UpdateCall[Any] | str,
        args: tuple[Any, ...],
        update_id: str | None,
    ) -> tuple[OutboxRecord, str]:
        """Return the row of an update, and the update's id."""
        made = update_call(call, args)
        if update_id is None:
            update_id = secrets.token_hex(16)
        given = StartUpdateInput(
            workflow_id=target,
            update_name=made.name,
            update_id=check_id(update_id, "the update id"),
            input=made.input,
        )
        given = settle(self.client.interceptors, "start_update", given)
        request = UpdateRequest(
            update_id=update_id,
            update_name=made.name,
            input=given.input,
            identity=self.client.identity,
            headers=checked_headers(given.headers, f"of update {made.name!r}"),
        )
        request_id, data = update_request_id(update_id), encode_message(request)
        return self._message(target, MessageKind.UPDATE, request_id, data), update_id

    def _message(
        self, target: str, kind: MessageKind, request_id: str, data: str
    ) -> OutboxRecord:
        message = PutMessage(
            namespace=self.client.namespace,
            workflow_id=check_id(target, "the workflow id"),
            run_id=None,
            kind=kind.value,
            request_id=request_id,
            data=data,
        )
        encoded = msgspec.json.encode(message)
        return self._row(self._new_id(), target, OutboxKind.MESSAGE, encoded)

    def _row(
        self, outbox_id: str, target: str, kind: OutboxKind, data: bytes
    ) -> OutboxRecord:
        return OutboxRecord(
            outbox_id=outbox_id,
            namespace=self.client.namespace,
            target=target,
            kind=kind.value,
            # The caller's connection may speak a character set that lacks some.
            data=_NOT_ASCII.sub(_escape, data.decode()),
            created_at=self.client.store.now(),
        )


def _escape(found: re.Match[str]) -> str:
    """Write characters as JSON may have them within its texts, and has no others."""
    units = found[0].encode("utf-16-be").hex()
    return "".join(f"\\u{units[n : n + 4]}" for n in range(0, len(units), 4))


def _request_id(given: str | None) -> str:
    return secrets.token_hex(16) if given is None else check_id(given, "the request id")
