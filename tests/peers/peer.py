"""Drives `daystar_api` from the command line, on loopback, for the tests.

    peer.py tcp-echo-server PORT           stdin: messages for send_to_all
    peer.py tcp-client PORT                stdin: messages to send
    peer.py udp-echo PORT [HOSTNAME]       HOSTNAME: 127.0.0.1
    peer.py udp-send PORT IP TO_PORT       stdin: messages to send
    peer.py udp-broadcast PORT IP TO_PORT  the same, with broadcast enabled
    peer.py vectors PORT PORT FILE         checks itself against vectors.json

A message is one line of JSON, in and out: a string over TCP, and what UDP
received is `[message, [ip, port]]`. `ready` is printed once it listens or is
connected, `closed` when its connection has ended. It ends at the end
of stdin, and in any case after 60 seconds.
"""

import json
import os
import sys
import threading

import vectors
from daystar_api.tcp_client import create_tcp_client
from daystar_api.tcp_server import create_tcp_server
from daystar_api.udp_socket import create_udp_socket

LOOPBACK = "127.0.0.1"


def give_up():
    print("peer.py: not finished after 60 s", file=sys.stderr, flush=True)
    os._exit(3)


def put(value):
    print(json.dumps(value), flush=True)


def ready():
    print("ready", flush=True)


def messages():
    """The messages on stdin, up to its end."""
    for line in sys.stdin:
        yield json.loads(line)


def in_background(work):
    """Runs `work` until its socket is closed, here or by the peer."""

    def run():
        try:
            work()
        except UnicodeDecodeError:
            raise  # a ValueError too, and not to be missed
        except (OSError, ValueError):
            print("closed", flush=True)

    threading.Thread(target=run, daemon=True).start()


def tcp_echo_server(port):
    with create_tcp_server(
        port, message_callback=lambda message, _addr: message, hostname=LOOPBACK
    ) as server:
        ready()
        for message in messages():
            server.send_to_all(message)


def tcp_client(port):
    def receive():
        while True:
            put(client.receive())

    with create_tcp_client(LOOPBACK, port) as client:
        ready()
        in_background(receive)
        for message in messages():
            client.send(message)


def udp_echo(port, hostname=LOOPBACK):
    def echo():
        while True:
            message, sender = udp.receive()
            put([message, sender])
            udp.send(message, sender)

    with create_udp_socket(port, hostname=hostname) as udp:
        in_background(echo)
        ready()
        for _ in messages():
            pass


def udp_send(port, ip, to_port, broadcast=False):
    def receive():
        while True:
            put(udp.receive())

    with create_udp_socket(port, hostname=LOOPBACK) as udp:
        if broadcast:
            udp.enable_broadcast()
        in_background(receive)
        ready()
        for message in messages():
            udp.send(message, (ip, to_port))


def main(command, port, *rest):
    timer = threading.Timer(60.0, give_up)
    timer.daemon = True
    timer.start()
    port = int(port)
    if command == "tcp-echo-server":
        tcp_echo_server(port)
    elif command == "tcp-client":
        tcp_client(port)
    elif command == "udp-echo":
        udp_echo(port, *rest)
    elif command in ("udp-send", "udp-broadcast"):
        ip, to_port = rest
        udp_send(port, ip, int(to_port), command == "udp-broadcast")
    elif command == "vectors":
        raw_port, path = rest
        sys.exit(vectors.check(path, port, int(raw_port)))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
