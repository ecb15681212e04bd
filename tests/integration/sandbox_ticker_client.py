"""The official KiteTicker in a process of its own (its reactor cannot be restarted): prints what it hears, a JSON line each.

Usage: python -m tests.integration.sandbox_ticker_client ROOT API_KEY ACCESS_TOKEN MODE TOKEN…
"""

from __future__ import annotations

import json
import sys
from typing import Any

from kiteconnect import KiteTicker


def main() -> None:
    root, api_key, access_token, mode, *tokens = sys.argv[1:]
    wanted = [int(token) for token in tokens]
    ticker = KiteTicker(api_key, access_token, root=root, reconnect_max_tries=1)

    def say(kind: str, value: Any) -> None:
        sys.stdout.write(json.dumps({"kind": kind, "value": value}, default=str) + "\n")
        sys.stdout.flush()

    def on_connect(ws: Any, _: Any) -> None:
        if wanted:
            ws.subscribe(wanted)
            if mode != "quote":  # a bare subscription is in quote mode
                ws.set_mode(mode, wanted)
        say("connect", None)

    ticker.on_connect = on_connect
    ticker.on_ticks = lambda _, ticks: [say("tick", tick) for tick in ticks]
    ticker.on_order_update = lambda _, order: say("order", order)
    ticker.on_message = lambda _, payload, binary: say("frame", [len(payload), binary])
    ticker.on_error = lambda _, code, reason: say("error", [code, str(reason)])
    ticker.on_close = lambda _, code, reason: say("close", [code, str(reason)])
    ticker.connect()


if __name__ == "__main__":
    main()
