"""A peer that counts: sends numbered confirmable publishes, each once, and wants an acknowledgement for each.

    systemd_peer.py PORT COUNT MILLISECONDS
    systemd_peer.py stop-thread TID      stops one thread, and it alone, until it is killed
"""

import ctypes
import os
import socket
import struct
import sys
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
else:
    sys.exit(count(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) / 1000))
