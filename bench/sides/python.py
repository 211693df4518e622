"""Why: the threaded Python peer of tests/peers, as one side of the comparisons."""

import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "peers"))

from daystar_api.tcp_server import create_tcp_server  # noqa: E402
from daystar_api.udp_socket import create_udp_socket  # noqa: E402

HOST = "127.0.0.1"
MODE, WIRE, FILE = sys.argv[1:4]
PORT = int(WIRE) + 65536

with open(FILE, "rb") as file:
    messages = file.read().decode("utf-8").split("\x03")[:-1]
sent = 0
tallies = {}


def count(message, client):
    number, total = tallies.get(client, (0, 0))
    if message == "?":
        tallies[client] = (0, 0)
        return f"{number} {total}"
    total = (31 * total + len(message) + ord(message[0]) + 7 * ord(message[-1])) % 2**32
    tallies[client] = (number + 1, total)
    return None


def send(order, _client):
    global sent
    for _ in range(int(order)):
        server.send_to_all(messages[sent % len(messages)])
        sent += 1


ANSWERS = {"count": count, "echo": lambda message, _client: message, "send": send}

if MODE == "udp":
    import threading

    udp = create_udp_socket(PORT, hostname=HOST)

    def echo_datagrams():
        while True:
            udp.send(*udp.receive())

    threading.Thread(target=echo_datagrams, daemon=True).start()
else:
    server = create_tcp_server(PORT, ANSWERS[MODE], hostname=HOST)

print("ready", flush=True)
sys.stdin.read()
os._exit(0)  # the peer's threads may still wait for clients
