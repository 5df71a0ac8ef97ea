"""A feature server as many teams run one: an HTTP request a sample, answered after a while.

Started as a program, with the latency in seconds; it writes its port and ends with its input.
"""

from __future__ import annotations

import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ROWS, ROW_BYTES = 512, 4096


def row(number: int) -> bytes:
    """The bytes that belong to a number; whoever has them at hand need not ask."""
    return bytes((number * 7 + i * 13) % 251 for i in range(256)) * (ROW_BYTES // 256)


def serve(latency_s: float) -> None:
    rows = [row(number) for number in range(ROWS)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or headers and body wait for each other

        def do_GET(self) -> None:
            time.sleep(latency_s)
            body = rows[int(self.path.rpartition("/")[2]) % ROWS]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *request: object) -> None:
            """Clients that are killed break their connection: nothing to report."""

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(float(sys.argv[1]))
