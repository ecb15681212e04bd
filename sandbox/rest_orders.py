"""Routes of orders and trades: place, modify, cancel, book, history. They validate and hand over; the exchange decides."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sandbox.app import Sandbox, endpoint, form
from sandbox.validation import check_variety, parse_modify, parse_place
from sandbox.wire import raw_success, success


async def place(sandbox: Sandbox, request: Request) -> Response:
    fields = await form(request)
    board = sandbox.board
    wanted = parse_place(request.path_params["variety"], fields, board.find_instrument, board.last_price)
    return success({"order_id": sandbox.exchange.place(wanted)})


async def modify(sandbox: Sandbox, request: Request) -> Response:
    fields = await form(request)
    check_variety(request.path_params["variety"])
    order = sandbox.exchange.editable(request.path_params["order_id"], "modified")
    market = sandbox.board.market(order.request.token)
    sandbox.exchange.modify(order.order_id, parse_modify(fields, order, market.instrument, market.last))
    return success({"order_id": order.order_id})


async def cancel(sandbox: Sandbox, request: Request) -> Response:
    check_variety(request.path_params["variety"])
    sandbox.exchange.cancel(request.path_params["order_id"])
    return success({"order_id": request.path_params["order_id"]})


async def book(sandbox: Sandbox, request: Request) -> Response:
    return raw_success(sandbox.views.book())


async def history(sandbox: Sandbox, request: Request) -> Response:
    return raw_success(sandbox.views.history(request.path_params["order_id"]))


async def trades(sandbox: Sandbox, request: Request) -> Response:
    return raw_success(sandbox.views.trades(request.path_params.get("order_id")))


routes = [
    Route("/orders", endpoint(book), methods=["GET"]),
    Route("/trades", endpoint(trades), methods=["GET"]),
    Route("/orders/{order_id}/trades", endpoint(trades), methods=["GET"]),
    Route("/orders/{order_id}", endpoint(history), methods=["GET"]),
    Route("/orders/{variety}", endpoint(place), methods=["POST"]),
    Route("/orders/{variety}/{order_id}", endpoint(modify), methods=["PUT"]),
    Route("/orders/{variety}/{order_id}", endpoint(cancel), methods=["DELETE"]),
]
