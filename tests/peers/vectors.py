"""Checks `daystar_api` against vectors.json: the same bytes, the same messages.

It has no limit of its own, so vectors with `maxMessageBytes` are left out.
"""

import json
import socket
import sys

from daystar_api._wire import Connection, wire_port
from daystar_api.udp_socket import create_udp_socket

LOOPBACK = "127.0.0.1"


def tcp_pair():
    """A `Connection`, and the plain socket at its other end."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        raw = socket.create_connection(listener.getsockname())
        accepted, _address = listener.accept()
    return Connection(accepted), raw


def sent(messages):
    """The bytes that sending these puts on the wire."""
    connection, raw = tcp_pair()
    with raw:
        try:
            for message in messages:
                connection.send(message)
        finally:
            connection.shutdown()
            data = b"".join(iter(lambda: raw.recv(65536), b""))
            connection.close()
    return data


def received(data):
    """The events that a receiver makes of these bytes."""
    connection, raw = tcp_pair()
    events = []
    with raw:
        raw.sendall(data)
        raw.shutdown(socket.SHUT_WR)
        while True:
            try:
                events.append({"message": connection.receive(timeout=20.0)})
            except UnicodeDecodeError as error:
                events.append({"invalid": error.object.hex(" ")})
            except ConnectionError:
                break
    if connection._buffer:
        events.append({"incomplete": connection._buffer.hex(" ")})
    connection.close()
    return events


def refused(action, *args):
    """Whether it raises ValueError, as UnicodeError is too."""
    try:
        action(*args)
    except ValueError:
        return True
    return False


def text_of(case):
    """The message, or what its UTF-16 units are: a str with lone surrogates."""
    if "message" in case:
        return case["message"]
    return "".join(chr(int(unit, 16)) for unit in case["utf16"].split(" "))


class Report:
    """What was checked, left out and wrong."""

    def __init__(self):
        self.done = 0
        self.left_out = 0
        self.wrong = 0

    def check(self, name, actual, expected):
        self.done += 1
        if actual != expected:
            self.wrong += 1
            print(f"{name}: {actual!r} instead of {expected!r}", file=sys.stderr)

    def each(self, cases):
        """The cases that this peer can show."""
        for case in cases:
            if "maxMessageBytes" in case:
                self.left_out += 1
            else:
                yield case


def check_ports(report, ports):
    for port, wire in ports["wire"]:
        report.check(f"port {port}", wire_port(port), wire)
    for port in ports["refused"]:
        report.check(f"port {port} is refused", refused(wire_port, port), True)


def check_tcp(report, tcp):
    for case in report.each(tcp["frames"]):
        report.check(case["name"], sent(case["messages"]).hex(" "), case["bytes"])
        expected = [{"message": message} for message in case["messages"]]
        data = bytes.fromhex(case["bytes"])
        report.check(case["name"], received(data), expected)
    for case in report.each(tcp["streams"]):
        data = bytes.fromhex(case["bytes"])
        report.check(case["name"], received(data), case["events"])
    for case in report.each(tcp["unsendable"]):
        report.check(case["name"], refused(sent, [text_of(case)]), True)


def check_udp(report, udp, port, raw_port):
    with (
        create_udp_socket(port, hostname=LOOPBACK) as peer,
        create_udp_socket(raw_port, hostname=LOOPBACK) as other,
    ):
        raw = other._socket
        raw.settimeout(20.0)
        for case in udp["datagrams"]:
            peer.send(case["message"], (LOOPBACK, raw_port))
            data = raw.recv(65536).hex(" ")
            raw.sendto(bytes.fromhex(case["bytes"]), (LOOPBACK, wire_port(port)))
            message, _sender = peer.receive(timeout=20.0)
            expected = (case["bytes"], case["message"])
            report.check(case["name"], (data, message), expected)
        for case in udp["invalid"]:
            raw.sendto(bytes.fromhex(case["bytes"]), (LOOPBACK, wire_port(port)))
            report.check(case["name"], refused(peer.receive, 20.0), True)
        for case in udp["unsendable"]:
            to = (LOOPBACK, raw_port)
            report.check(case["name"], refused(peer.send, text_of(case), to), True)


def check(path, port, raw_port):
    """Prints the number of cases, and on stderr those that went wrong."""
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    report = Report()
    check_ports(report, vectors["ports"])
    check_tcp(report, vectors["tcp"])
    check_udp(report, vectors["udp"], port, raw_port)
    print(f"{report.done} cases, {report.left_out} with limits left out")
    return 1 if report.wrong else 0
