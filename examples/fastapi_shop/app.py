"""The HTTP side: one engine for each process, open as long as the process serves."""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from durable import (
    DurableError,
    Engine,
    InboxFullError,
    InvalidInputError,
    NoAnswerError,
    ResultTimeoutError,
    RunDescription,
    StoreError,
    WorkflowAlreadyStartedError,
    WorkflowClosedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    WorkflowStuckError,
)

from .orders import Order, Receipt, approval, place_order

PAGE_RUNS = 100
log = logging.getLogger(__name__)

# The nearest class counts; whatever is not listed is a fault of ours.
STATUS_CODES: dict[type[DurableError], int] = {
    InvalidInputError: 422,
    WorkflowNotFoundError: 404,
    WorkflowAlreadyStartedError: 409,
    WorkflowClosedError: 409,
    WorkflowFailedError: 409,
    InboxFullError: 429,
    WorkflowStuckError: 503,
    StoreError: 503,
    NoAnswerError: 504,
    ResultTimeoutError: 504,
}


class Approval(BaseModel):
    approved: bool


class Placed(BaseModel):
    id: str
    run_id: str


class OrderStatus(BaseModel):
    state: str | None
    run: RunDescription


class Page(BaseModel):
    runs: list[RunDescription]
    next: str | None


def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


Shop = Annotated[Engine, Depends(engine_of)]
router = APIRouter()


@router.post("/orders", status_code=201)
async def post_order(order: Order, shop: Shop, response: Response) -> Placed:
    """The order's id is the run's: the same order twice is one order."""
    run = await shop.start(place_order(order), id=order.id)
    response.status_code = 201 if run.is_new else 200
    return Placed(id=run.workflow_id, run_id=run.run_id)


@router.get("/orders")
async def list_orders(
    shop: Shop, status: str | None = None, after: str | None = None
) -> Page:
    runs = await shop.list(
        workflow_type=place_order.name, status=status, after=after, limit=PAGE_RUNS
    )
    return Page(runs=runs, next=runs[-1].cursor if len(runs) == PAGE_RUNS else None)


@router.get("/orders/{order_id}")
async def get_order(order_id: str, shop: Shop) -> OrderStatus:
    run = await shop.get(order_id, workflow=place_order)
    return OrderStatus(state=await run.state(str), run=await run.describe())


@router.get("/orders/{order_id}/receipt")
async def get_receipt(
    order_id: str, shop: Shop, wait: Annotated[float, Query(ge=0, le=30)] = 10
) -> Receipt:
    """Wait for the end of the order, but not for ever: the caller asks again."""
    run = await shop.get(order_id, workflow=place_order)
    return await run.result(timeout=wait)


@router.post("/orders/{order_id}/approval", status_code=202)
async def post_approval(order_id: str, answer: Approval, shop: Shop) -> None:
    """When this is answered, the word is durable and will be heard once."""
    run = await shop.get(order_id, workflow=place_order)
    await run.signal(approval(answer.approved))


@router.get("/health")
async def get_health(shop: Shop) -> dict[str, str]:
    await shop.list(limit=1)
    return {"status": "ok"}


async def answer_error(request: Request, error: Exception) -> JSONResponse:
    """Map the library's errors to HTTP. Their messages hold no values of a caller."""
    assert isinstance(error, DurableError)
    codes = (STATUS_CODES[c] for c in type(error).__mro__ if c in STATUS_CODES)
    status = next(codes, 500)
    if status in (500, 503):
        log.error("%s %s", request.method, request.url.path, exc_info=error)
    content: dict[str, Any] = {"code": error.code, "detail": error.message}
    return JSONResponse(content, status_code=status)


def create_app(database: str | Path) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Here, and not at import: the engine belongs to the server's event loop, and
        # to this process.
        async with Engine(database) as engine:
            app.state.engine = engine
            yield

    app = FastAPI(title="Shop", lifespan=lifespan)
    app.include_router(router)
    app.add_exception_handler(DurableError, answer_error)
    return app


app = create_app(Path(os.environ.get("SHOP_DATABASE", "shop.db")))
