"""TCP server."""

import socket
import sys
import threading
import traceback

from ._wire import Connection, communication_address, wire_port


def create_tcp_server(port, message_callback=None, *, hostname="0.0.0.0"):
    """Listens in the background and returns a TCPServer.

    `message_callback(msg, client_addr)` returns the reply, or None for none.
    `hostname` is the tests' own: they listen on loopback only.
    """
    return TCPServer(port, message_callback, hostname)


class TCPServer:
    def __init__(self, port, message_callback, hostname):
        self._callback = message_callback
        self._lock = threading.Lock()
        self._clients = {}  # address -> Connection
        self._threads = []
        self._stopped = False
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((hostname, wire_port(port)))
            self._listener.listen()
            self._listener.settimeout(0.1)  # how soon accept notices stop()
        except BaseException:
            self._listener.close()
            raise
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.stop()

    def send(self, message, client):
        """Sends a message to one client, an address as the callback gets it."""
        with self._lock:
            connection = self._clients.get(client)
        if connection is None:
            raise ConnectionError(f"{client} is not connected")
        connection.send(message)

    def send_to_all(self, message):
        """Sends a message to every connected client."""
        with self._lock:
            connections = list(self._clients.values())
        for connection in connections:
            try:
                connection.send(message)
            except OSError:
                pass  # it has just left; its own thread takes note

    def get_connected_clients(self):
        """The addresses of the connected clients."""
        with self._lock:
            return list(self._clients)

    def stop(self):
        """Stops the server, releases the port and waits for its threads."""
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            connections = list(self._clients.values())
            threads = list(self._threads)
        self._acceptor.join()
        self._listener.close()
        for connection in connections:
            connection.shutdown()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _accept(self):
        while not self._stopped:
            try:
                sock, address = self._listener.accept()
            except TimeoutError:
                continue
            address = communication_address(address)
            connection = Connection(sock)
            thread = threading.Thread(
                target=self._serve, args=(connection, address), daemon=True
            )
            with self._lock:
                if self._stopped:
                    sock.close()
                    return
                self._clients[address] = connection
                self._threads = [t for t in self._threads if t.is_alive()]
                self._threads.append(thread)
                # Under the lock, or stop() could join what has not started.
                thread.start()

    def _serve(self, connection, address):
        try:
            while True:
                message = connection.receive()
                if self._callback is None:
                    continue
                try:
                    reply = self._callback(message, address)
                except Exception:
                    traceback.print_exc(file=sys.stderr)
                    continue
                if reply is not None:
                    connection.send(reply)
        except (OSError, UnicodeDecodeError):
            pass  # gone, reset, or not speaking UTF-8
        finally:
            with self._lock:
                self._clients.pop(address, None)
            connection.close()
