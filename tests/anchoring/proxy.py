"""Stands between the server and the node, and has the node misbehave as a test says."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

Answer = dict[str, Any]


class Drop(Exception):
    """Hang up without an answer; `after` the node was asked, or before."""

    def __init__(self, *, after: bool = False) -> None:
        super().__init__()
        self.after = after


class Proxy:
    """Passes everything on, but what `fault` says: raise `Drop`, or return another answer (None: the node's)."""

    def __init__(self, node_url: str) -> None:
        self._node = node_url
        self.fault: Callable[[str, list[Any]], Answer | None] | None = None
        # Changes what the node answered.
        self.twist: Callable[[str, Any], Any] | None = None
        self.asked: Counter[str] = Counter()
        self.url = ""

    def well(self) -> None:
        """No more faults."""
        self.fault = self.twist = None

    def down(self) -> None:
        """Nobody is there."""

        def fault(_method: str, _params: list[Any]) -> Answer | None:
            raise Drop

        self.fault = fault

    def on(self, method: str, action: Callable[[], Answer | None], times: int = 10**9) -> None:
        """For so many calls of a method, do that."""
        left = times

        def fault(asked: str, _params: list[Any]) -> Answer | None:
            nonlocal left
            if asked != method or left <= 0:
                return None
            left -= 1
            return action()

        self.fault = fault

    def answer(self, body: bytes) -> bytes:
        asked = json.loads(body)
        method = asked["method"]
        self.asked[method] += 1
        try:
            given = self.fault(method, asked.get("params", [])) if self.fault else None
        except Drop as drop:
            if drop.after:
                self._pass(body)
            raise
        if given is not None:
            return json.dumps({"jsonrpc": "2.0", "id": asked["id"]} | given).encode()
        told = self._pass(body)
        if self.twist is None:
            return told
        found = json.loads(told)
        if "result" in found:
            found["result"] = self.twist(method, found["result"])
        return json.dumps(found).encode()

    def _pass(self, body: bytes) -> bytes:
        with urlopen(Request(self._node, body, {"Content-Type": "application/json"}), timeout=20) as found:
            told: bytes = found.read()
            return told


def drop(*, after: bool = False) -> Callable[[], Answer | None]:
    def act() -> Answer | None:
        raise Drop(after=after)

    return act


def swallow() -> Answer:
    """As if it was taken: the hash is not looked at."""
    return {"result": "0x" + "00" * 32}


@contextmanager
def running(node_url: str) -> Iterator[Proxy]:
    proxy = Proxy(node_url)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                told = proxy.answer(body)
            except (Drop, OSError):
                self.close_connection = True
                return
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, format: str, *args: object) -> None: ...

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever asked may hang up."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
