"""A proxy in front of an HTTP server, which breaks chosen requests as networks and stores do."""

from __future__ import annotations

import contextlib
import http.client
import random
import select
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

#: What can go wrong for a while. The first never reach the server; of the others it has done what was asked.
REFUSALS = ("503", "500", "429", "stall", "reset")
LOSSES = ("lost", "cut", "short")
FAULTS = REFUSALS + LOSSES
_ERRORS = {
    "503": "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    "500": "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>",
    "429": "Too Many Requests",
    "403": "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
}


class Request(NamedTuple):
    """A request that passes: its number from 1, method, path with query, and range header."""

    number: int
    method: str
    path: str
    range: str


#: Names the fault of a request, or None.
Plan = Callable[[Request], "str | None"]


def once(fault: str, of: Callable[[Request], bool] = lambda request: True) -> Plan:
    """The fault of the first request that is meant, and of no other."""
    left, lock = [fault], threading.Lock()

    def plan(request: Request) -> str | None:
        with lock:
            return left.pop() if left and of(request) else None

    return plan


def at_random(seed: int, share: float, faults: tuple[str, ...] = FAULTS, in_a_row: int = 4) -> Plan:
    """Faults of a share of the requests; at most so many one after the other."""
    draw, lock = random.Random(seed), threading.Lock()
    row = 0

    def plan(request: Request) -> str | None:
        nonlocal row
        # What "short" would do to another request is nothing.
        possible = [fault for fault in faults if fault != "short" or request.method == "GET"]
        with lock:
            row = row + 1 if row < in_a_row and draw.random() < share else 0
            return draw.choice(possible) if row else None

    return plan


class FaultProxy:
    """Listens on the loopback interface and passes requests on; `close` it.

    Attributes:
        plan: names each request's fault; set it at any time.
        counts: how many requests met each fault; those that passed are under "passed".
        seen: the requests.
    """

    def __init__(self, host: str, port: int) -> None:
        self.plan: Plan = lambda request: None
        self.counts: Counter[str] = Counter()
        self.seen: list[Request] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                with contextlib.suppress(OSError, ValueError):  # the connection was reset, or cut off by the client
                    super().handle_one_request()

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                body = self._body()
                fault = proxy._fault(self.command, self.path, self.headers.get("Range", ""))
                if fault == "short" and self.command != "GET":
                    fault = None
                with proxy._lock:
                    proxy.counts[fault or "passed"] += 1
                if fault is not None:
                    self.close_connection = True
                if fault in _ERRORS:
                    text = _ERRORS[fault].encode()
                    self._answer(int(fault), {"Content-Type": "application/xml"}, text, len(text))
                elif fault == "stall":
                    self._stall()
                elif fault == "reset":
                    self._reset()
                else:
                    status, headers, answer = self._ask(host, port, body)
                    length = int(headers.get("Content-Length") or len(answer))
                    if fault == "lost":
                        self._reset()
                    elif fault == "cut":
                        self._answer(status, headers, answer[: len(answer) // 2], max(length, 1))
                    elif fault == "short":
                        self._answer(status, headers, answer[: len(answer) // 2], len(answer) // 2)
                    else:
                        self._answer(status, headers, answer, length)

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 (the base class names them)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while length := int(self.rfile.readline(), 16):
                    body += self.rfile.read(length)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _ask(self, host: str, port: int, body: bytes) -> tuple[int, dict[str, str], bytes]:
                server = http.client.HTTPConnection(host, port, timeout=60)
                dropped = ("expect", "connection", "transfer-encoding", "content-length")
                passed = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
                server.request(self.command, self.path, body=body or None, headers=passed)
                response = server.getresponse()
                answer = response.read()
                kept = {k.title(): v for k, v in response.getheaders()}
                for name in ("Transfer-Encoding", "Connection"):
                    kept.pop(name, None)
                server.close()
                return response.status, kept, answer

            def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
                self.send_response_only(status)
                if self.close_connection:  # or the client asks once more there, and is not heard
                    self.send_header("Connection", "close")
                for name, value in headers.items():
                    if name.lower() != "content-length":
                        self.send_header(name, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _stall(self) -> None:
                """Answers nothing until the client has had enough of it, or the proxy is closed."""
                while not proxy._closing.is_set():
                    readable, _, _ = select.select([self.connection], [], [], 0.05)
                    if readable and not self.connection.recv(1 << 16):
                        return

            def _reset(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def _fault(self, method: str, path: str, range_header: str) -> str | None:
        with self._lock:
            request = Request(len(self.seen) + 1, method, path, range_header)
            self.seen.append(request)
        return self.plan(request)

    def close(self) -> None:
        """Ends the proxy and what it stalls."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
