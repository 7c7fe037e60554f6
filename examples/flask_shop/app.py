"""The HTTP side: one engine for each process, opened when the process first needs it.

Flask makes the application in more processes than those that serve: in the reloader's
parent, before gunicorn forks with `--preload`, for each `flask` command. So making it
opens nothing.
"""

import os
from pathlib import Path

import msgspec
from flask import Blueprint, Flask, current_app, request
from flask.typing import ResponseReturnValue

from durable import (
    DurableError,
    InboxFullError,
    InvalidInputError,
    NoAnswerError,
    QueryFailedError,
    ResultTimeoutError,
    StoreError,
    SyncEngine,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    WorkflowStuckError,
)

from .orders import Order, PlaceOrder

PAGE_RUNS = 100
WAIT_SECONDS_MAX = 20.0  # well below gunicorn's timeout, which kills the process

# The nearest class counts; whatever is not listed is a fault of ours.
STATUS_CODES: dict[type[DurableError], int] = {
    InvalidInputError: 422,
    WorkflowNotFoundError: 404,
    WorkflowAlreadyStartedError: 409,
    WorkflowClosedError: 409,
    WorkflowFailedError: 409,
    InboxFullError: 429,
    QueryFailedError: 503,
    WorkflowStuckError: 503,
    StoreError: 503,
    NoAnswerError: 504,
    ResultTimeoutError: 504,
}

shop = Blueprint("shop", __name__)


def engine() -> SyncEngine:
    """The engine of this process. Opening it again does nothing."""
    made: SyncEngine = current_app.extensions["durable"]
    return made.open()


class Approval(msgspec.Struct):
    approved: bool


@shop.post("/orders")
def post_order() -> ResponseReturnValue:
    """The order's id is the run's: the same order twice is one order."""
    order = msgspec.json.decode(request.get_data(), type=Order)
    run = engine().start(PlaceOrder.place(order), id=order.id)
    placed = {"id": run.workflow_id, "run_id": run.run_id}
    return placed, 201 if run.is_new else 200


@shop.get("/orders")
def list_orders() -> ResponseReturnValue:
    runs = engine().list(
        workflow_type="PlaceOrder",
        status=request.args.get("status"),
        after=request.args.get("after"),
        limit=PAGE_RUNS,
    )
    after = runs[-1].cursor if len(runs) == PAGE_RUNS else None
    return {"runs": [run.to_dict() for run in runs], "next": after}


@shop.get("/orders/<order_id>")
def get_order(order_id: str) -> ResponseReturnValue:
    run = engine().get(order_id, workflow=PlaceOrder)
    state = run.query(PlaceOrder.status(), timeout=5)
    return {"state": state, "run": run.describe().to_dict()}


@shop.get("/orders/<order_id>/receipt")
def get_receipt(order_id: str) -> ResponseReturnValue:
    """Wait for the end of the order, but not for ever: the caller asks again."""
    wait = request.args.get("wait", 10.0, type=float)
    run = engine().get(order_id, workflow=PlaceOrder)
    receipt: dict[str, str] = run.result(timeout=min(wait, WAIT_SECONDS_MAX))
    return receipt


@shop.post("/orders/<order_id>/approval")
def post_approval(order_id: str) -> ResponseReturnValue:
    """When this is answered, the word is durable and will be heard once."""
    answer = msgspec.json.decode(request.get_data(), type=Approval)
    run = engine().get(order_id, workflow=PlaceOrder)
    run.signal(PlaceOrder.approve(answer.approved))
    return {}, 202


@shop.get("/health")
def get_health() -> ResponseReturnValue:
    engine().list(limit=1)
    return {"status": "ok"}


@shop.app_errorhandler(DurableError)
def answer_error(error: DurableError) -> ResponseReturnValue:
    """Map the library's errors to HTTP. Their messages hold no values of a caller."""
    codes = (STATUS_CODES[c] for c in type(error).__mro__ if c in STATUS_CODES)
    status = next(codes, 500)
    if status in (500, 503):
        current_app.logger.error("%s", request.path, exc_info=error)
    return {"code": error.code, "detail": error.message}, status


@shop.app_errorhandler(msgspec.MsgspecError)
def answer_bad_body(error: msgspec.MsgspecError) -> ResponseReturnValue:
    return {"code": "bad_body", "detail": str(error)}, 422


def create_app(database: str | Path | None = None) -> Flask:
    app = Flask(__name__)
    app.extensions["durable"] = SyncEngine(
        database or Path(os.environ.get("SHOP_DATABASE", "shop.db"))
    )
    app.register_blueprint(shop)
    return app
