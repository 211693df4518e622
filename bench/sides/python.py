"""Why: the threaded Python peer of tests/peers, as one side of the comparisons."""

import json
import os
import sys
import time

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "tests", "peers"))

from daystar_api.tcp_client import create_tcp_client  # noqa: E402
from daystar_api.tcp_server import create_tcp_server  # noqa: E402
from daystar_api.udp_socket import create_udp_socket  # noqa: E402

HOST = "127.0.0.1"
server = None
udp = None
sent = 0


def read_messages(job):
    with open(job["file"], "rb") as file:
        return file.read().decode("utf-8").split("\x03")[:-1]


def latencies(times):
    times.sort()

    def at(share):
        return 1e6 * times[int(share * (len(times) - 1))]

    return {"median": at(0.5), "p99": at(0.99)}


def until(is_so):
    end = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError("it did not come to be within 30 s")
        time.sleep(0.005)


def receive(job):
    messages = read_messages(job)
    kinds = len(messages)
    wrong = 0
    with create_tcp_client(HOST, job["port"]) as client:
        start = time.perf_counter()
        for i in range(job["count"]):
            if client.receive() != messages[i % kinds]:
                wrong += 1
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "count": job["count"], "wrong": wrong}


def send(job):
    messages = read_messages(job)
    kinds = len(messages)
    with create_tcp_client(HOST, job["port"]) as client:
        start = time.perf_counter()
        for i in range(job["count"]):
            client.send(messages[i % kinds])
        return {"seconds": time.perf_counter() - start}


def echo(job):
    global server
    server = create_tcp_server(
        job["port"], message_callback=lambda message, _addr: message, hostname=HOST
    )
    return {}


def listen(job):
    global server
    server = create_tcp_server(job["port"], hostname=HOST)
    return {}


def ping(job):
    messages = read_messages(job)
    times = []
    wrong = 0
    with create_tcp_client(HOST, job["port"]) as client:
        start = time.perf_counter()
        for i in range(job["count"]):
            message = messages[i % len(messages)]
            begin = time.perf_counter()
            client.send(message)
            if client.receive() != message:
                wrong += 1
            times.append(time.perf_counter() - begin)
        seconds = time.perf_counter() - start
    return {
        **latencies(times),
        "seconds": seconds,
        "count": job["count"],
        "wrong": wrong,
    }


def members(job):
    until(lambda: len(server.get_connected_clients()) == job["clients"])
    return {}


def broadcast(job):
    global sent
    messages = read_messages(job)
    start = time.perf_counter()
    for _ in range(job["count"]):
        server.send_to_all(messages[sent % len(messages)])
        sent += 1
    return {"seconds": time.perf_counter() - start}


def connect(job):
    start = time.perf_counter()
    for _ in range(job["count"]):
        create_tcp_client(HOST, job["port"]).disconnect()
    return {"seconds": time.perf_counter() - start, "count": job["count"]}


def memory(job):
    members(job)
    with open("/proc/self/statm", encoding="ascii") as file:
        return {"rss": int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}


def udp_open(job):
    global udp
    udp = create_udp_socket(job["port"], hostname=HOST)
    return {}


def udp_receive(job):
    messages = read_messages(job)
    wrong = 0
    for i in range(job["count"]):
        message, sender = udp.receive()
        if message != messages[i % len(messages)]:
            wrong += 1
        if i % job["window"] == job["window"] - 1:
            udp.send("on", sender)
    return {"count": job["count"], "wrong": wrong}


def udp_send(job):
    messages = read_messages(job)
    to = (HOST, job["port"])
    start = time.perf_counter()
    for i in range(job["count"]):
        udp.send(messages[i % len(messages)], to)
        if i % job["window"] == job["window"] - 1:
            udp.receive()
    return {"seconds": time.perf_counter() - start}


def udp_echo(job):
    for _ in range(job["count"]):
        udp.send(*udp.receive())
    return {}


def udp_ping(job):
    messages = read_messages(job)
    to = (HOST, job["port"])
    times = []
    wrong = 0
    start = time.perf_counter()
    for i in range(job["count"]):
        message = messages[i % len(messages)]
        begin = time.perf_counter()
        udp.send(message, to)
        if udp.receive()[0] != message:
            wrong += 1
        times.append(time.perf_counter() - begin)
    return {
        **latencies(times),
        "seconds": time.perf_counter() - start,
        "count": job["count"],
        "wrong": wrong,
    }


JOBS = {
    "receive": receive,
    "send": send,
    "echo": echo,
    "listen": listen,
    "ping": ping,
    "members": members,
    "broadcast": broadcast,
    "connect": connect,
    "memory": memory,
    "udp": udp_open,
    "udpReceive": udp_receive,
    "udpSend": udp_send,
    "udpEcho": udp_echo,
    "udpPing": udp_ping,
}

for line in sys.stdin:
    name, job = json.loads(line)
    print(json.dumps(JOBS[name](job)), flush=True)
os._exit(0)  # the peer's threads may still wait for clients
