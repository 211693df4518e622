"""TCP client."""

import socket

from ._wire import Connection, wire_port


def create_tcp_client(ip, port):
    """Connects to a TCP server and returns a TCPClient."""
    return TCPClient(ip, port)


class TCPClient:
    def __init__(self, ip, port):
        sock = socket.create_connection((ip, wire_port(port)), timeout=10.0)
        sock.settimeout(None)
        self._connection = Connection(sock)

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.disconnect()

    def send(self, message):
        """Sends a message; the terminator is appended."""
        self._connection.send(message)

    def receive(self, timeout=None):
        """The next message, or None when `timeout` seconds have passed.

        Raises ConnectionError once the server has closed.
        """
        return self._connection.receive(timeout)

    def disconnect(self):
        """Disconnects from the server."""
        self._connection.close()
