"""A server of zeros at a limited speed; ends with its standard input.

    python slow_server.py BYTES_PER_SECOND

Prints its port. A request is eight bytes: how many bytes are wanted.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time

LATENCY_SECONDS = 0.1e-3


def serve(connection: socket.socket, bytes_per_second: float) -> None:
    with connection:
        while request := connection.recv(8, socket.MSG_WAITALL):
            size = int.from_bytes(request, "big")
            time.sleep(LATENCY_SECONDS + size / bytes_per_second)
            connection.sendall(bytes(size))


def accept(listener: socket.socket, bytes_per_second: float) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, bytes_per_second), daemon=True).start()


def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        arguments = (listener, float(sys.argv[1]))
        threading.Thread(target=accept, args=arguments, daemon=True).start()
        sys.stdin.buffer.read()
        os._exit(0)


if __name__ == "__main__":
    main()
