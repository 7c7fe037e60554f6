"""Parts of a transaction that may fail alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durable.errors import DurableError, StoreError
from durable.store import policies
from durable.store.lease import RegisterWorker
from durable.store.records import StartRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from durable.store.database import Database, Session


class Isolation:
    """Applies operations, each within a savepoint; they may be nested."""

    def __init__(self, database: Database, session: Session) -> None:
        """Work in the transaction that `session` has begun."""
        self._database = database
        self._session = session
        self._depth = 0

    def attempt(
        self, operation: Any, apply: Callable[[Any], Any]
    ) -> tuple[Any, DurableError | None]:
        """Apply an operation; if it is refused, leave no trace of it.

        Raises:
            Exception: the driver's, if the database as a whole failed.
        """
        # MySQL drops an older savepoint of the same name.
        name = f"operation_{self._depth}"
        self._session.savepoint(name)
        self._depth += 1
        try:
            result = apply(operation)
        except Exception as error:
            if self._database.explain(error) is not None:
                raise
            self._session.rollback_to_savepoint(name)
            return None, self._refuse(operation, error)
        finally:
            self._depth -= 1
        self._session.release_savepoint(name)
        return result, None

    def _refuse(self, operation: Any, error: Exception) -> DurableError:
        if isinstance(error, DurableError):
            return error
        refusal: DurableError
        if not self._database.is_conflict(error):
            refusal = StoreError(
                f"{type(operation).__name__} cannot be stored:"
                f" {type(error).__name__} of the database driver.",
            )
        elif isinstance(operation, StartRun):
            refusal = policies.run_id_taken(operation.record.run_id)
        elif isinstance(operation, RegisterWorker):
            refusal = policies.worker_taken(operation.worker.worker_id)
        else:
            refusal = policies.position_taken(getattr(operation, "run_id", ""))
        refusal.__cause__ = error
        return refusal
