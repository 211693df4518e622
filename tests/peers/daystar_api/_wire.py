"""What the three modules share: ports, and messages on a TCP stream."""

import select
import socket
import threading
import time

MIN_PORT = 70000
MAX_PORT = 71000
PORT_OFFSET = -65536
TERMINATOR = b"\x03"


def wire_port(port):
    """The 16-bit port that a communication port uses on the wire."""
    if type(port) is not int or not MIN_PORT <= port <= MAX_PORT:
        raise ValueError(f"port {port!r} is not in {MIN_PORT}..{MAX_PORT}")
    return port + PORT_OFFSET


def communication_address(address):
    """A socket's address as users see it: the wire port mapped back."""
    ip, port = address[:2]
    mapped = port - PORT_OFFSET
    return (ip, mapped if MIN_PORT <= mapped <= MAX_PORT else port)


class Connection:
    """Messages over one connected TCP socket.

    Any thread may send; one thread at a time receives.
    """

    def __init__(self, sock):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer known to hold no terminator
        self._send_lock = threading.Lock()

    def send(self, message):
        data = message.encode("utf-8")
        if TERMINATOR in data:
            raise ValueError("a message cannot contain U+0003")
        with self._send_lock:
            self._socket.sendall(data + TERMINATOR)

    def receive(self, timeout=None):
        """The next message, or None when the time ran out.

        Raises ConnectionError once the peer has closed.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            end = self._buffer.find(TERMINATOR, self._scanned)
            if end >= 0:
                data = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                self._scanned = 0
                return data.decode("utf-8")
            self._scanned = len(self._buffer)
            # select and not settimeout, which would limit sends as well.
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._socket], [], [], rest)[0]:
                return None
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionError("the connection has been closed")
            self._buffer += chunk

    def shutdown(self):
        """Ends both directions, which wakes a thread that is receiving."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was first

    def close(self, linger=1.0):
        """Closes; first lets what was sent arrive.

        Closing with unread input would reset the connection and could cut off
        data on its way to the peer, so input is drained for `linger` seconds.
        """
        deadline = time.monotonic() + linger
        try:
            self._socket.shutdown(socket.SHUT_WR)
            while (rest := deadline - time.monotonic()) > 0:
                if not select.select([self._socket], [], [], rest)[0]:
                    break
                if not self._socket.recv(65536):
                    break
        except (OSError, ValueError):
            pass  # closed already
        self._socket.close()
