"""A peer that counts: sends numbered confirmable publishes, each once, and wants an acknowledgement for each.

    systemd_peer.py PORT COUNT MILLISECONDS
    systemd_peer.py fill SECONDS         publishes retained messages, one after the other, each on a topic of its own
    systemd_peer.py session KEY          reads ps/state again and again over one DTLS session of device-1, until SIGTERM
    systemd_peer.py stop-thread TID      stops one thread, and it alone, until it is killed
"""

import ctypes
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time


def option(delta, value):
    assert delta < 13 and len(value) < 13
    return bytes([delta << 4 | len(value)]) + value


def publish(number):
    head = struct.pack(">BBH", 0x40, 0x03, number)
    return head + option(11, b"ps") + option(0, b"load") + b"\xff" + str(number).encode()


def count(port, wanted, pause):
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.connect(("127.0.0.1", port))
    answered, refused, longest = {}, 0, 0.0
    sent = {}
    end = time.monotonic() + wanted * pause + 15
    number = 0
    while time.monotonic() < end and len(answered) < wanted:
        now = time.monotonic()
        if number < wanted and (number == 0 or now - sent[number] >= pause):
            number += 1
            sent[number] = now
            try:
                peer.send(publish(number))
            except ConnectionRefusedError:
                refused += 1
        peer.settimeout(max(0.0005, pause / 4))
        try:
            answer = peer.recv(2048)
        except ConnectionRefusedError:
            refused += 1
            continue
        except TimeoutError:
            continue
        _, code, mid = struct.unpack(">BBH", answer[:4])
        assert code == 0x44, f"{code >> 5}.{code & 31:02} for {mid}"
        if mid not in answered:
            answered[mid] = time.monotonic() - sent[mid]
            longest = max(longest, answered[mid])
    print(f"{number} datagrams sent once, {len(answered)} answered 2.04, {refused} refused, longest wait {longest:.2f} s")
    return 0 if len(answered) == wanted and refused == 0 else 1


def fill(seconds):
    peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    peer.connect(("127.0.0.1", 5683))
    peer.settimeout(20)
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        number += 1
        topic = option(11, b"ps") + option(0, b"fill") + option(0, f"{int(end) % 100000}-{number}".encode()) + option(4, b"retain=1")
        peer.send(struct.pack(">BBH", 0x40, 0x03, number) + topic + b"\xff" + bytes(1024))
        # A store that takes its time: an empty acknowledgement, and the answer in a message of its own.
        kind, code, mid = struct.unpack(">BBH", peer.recv(2048)[:4])
        while code == 0:
            kind, code, mid = struct.unpack(">BBH", peer.recv(2048)[:4])
        assert code == 0x44, f"{code >> 5}.{code & 31:02} for {number}"
        if kind == 0x40:
            peer.send(struct.pack(">BBH", 0x60, 0, mid))
    print(f"{number} messages of 1 KiB stored")


def session(key):
    client = subprocess.Popen(
        "openssl s_client -dtls1_2 -connect 127.0.0.1:5684 -psk_identity device-1 -cipher PSK -quiet -psk".split() + [key],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    answered, longest = 0, 0.0
    try:
        while not told.is_set():
            # Its message id is its token too. Piggybacked or separate, the answer has the token.
            number = struct.pack(">H", answered + 1)
            began = time.monotonic()
            client.stdin.write(b"\x42\x01" + number + number + option(11, b"ps") + option(0, b"state"))
            content = re.compile(rb"[\x42\x52\x62]\x45.." + re.escape(number), re.DOTALL)
            said = b""
            while not content.search(said):
                readable, _, _ = select.select([client.stdout], [], [], 10)
                assert readable, f"no answer to request {answered + 1}: {said.hex()}"
                said += client.stdout.read(2048)
            answered += 1
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.02)
    finally:
        client.kill()
    print(f"{answered} requests of one session answered 2.05, longest wait {longest:.2f} s")


def stop_thread(thread):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    seize, interrupt = 0x4206, 0x4207
    for request in (seize, interrupt):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    any_child = 0x40000000
    os.waitpid(thread, any_child)
    # Until it is killed; a thread that nobody waits for would keep its process.
    os.waitpid(thread, any_child)


if sys.argv[1] == "stop-thread":
    stop_thread(int(sys.argv[2]))
elif sys.argv[1] == "fill":
    fill(float(sys.argv[2]))
elif sys.argv[1] == "session":
    session(sys.argv[2])
else:
    sys.exit(count(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000))
