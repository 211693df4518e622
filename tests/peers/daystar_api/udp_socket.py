"""UDP socket."""

import select
import socket

from ._wire import communication_address, wire_port


def create_udp_socket(port, *, hostname="0.0.0.0"):
    """Binds a UDP socket and returns a UDPSocket.

    `hostname` is the tests' own: they listen on loopback only.
    """
    return UDPSocket(port, hostname)


class UDPSocket:
    def __init__(self, port, hostname):
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.bind((hostname, wire_port(port)))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self._socket.close()

    def send(self, message, addr):
        """Sends a message to an (ip, port) tuple."""
        ip, port = addr
        self._socket.sendto(message.encode("utf-8"), (ip, wire_port(port)))

    def receive(self, timeout=None):
        """(message, sender_addr), or None when `timeout` seconds have passed."""
        if not select.select([self._socket], [], [], timeout)[0]:
            return None
        data, sender = self._socket.recvfrom(65536)
        return data.decode("utf-8"), communication_address(sender)

    def enable_broadcast(self):
        """Allows sending to broadcast addresses."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
