"""What a program can do inside the unit's sandbox. Ends with 1 when it can do what it must not, or not what it must."""

import ctypes
import errno
import mmap
import os
import socket
import sys

libc = ctypes.CDLL(None, use_errno=True)
wrong = []


def call(name, *args):
    if libc[name](*args) == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def refused(what, action):
    try:
        action()
    except OSError as error:
        print(f"refused: {what} ({errno.errorcode.get(error.errno, error.errno)})")
    else:
        print(f"POSSIBLE: {what}")
        wrong.append(what)


def possible(what, action):
    try:
        action()
    except OSError as error:
        print(f"IMPOSSIBLE: {what} ({error})")
        wrong.append(what)
    else:
        print(f"possible: {what}")


def write(path):
    with open(path, "w") as file:
        file.write("x")
        file.flush()
        os.fsync(file.fileno())
    os.remove(path)


def receive_buffer():
    peer = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    peer.bind(("::1", 0))


refused("write to /etc", lambda: write("/etc/probe"))
refused("write to /usr", lambda: write("/usr/probe"))
refused("look into /home", lambda: os.listdir("/home"))
refused("look into /root", lambda: os.listdir("/root"))
refused("execute /bin/sh", lambda: os.execv("/bin/sh", ["sh"]))
refused("memory that is writable and executable", lambda: mmap.mmap(-1, 4096, prot=7))
refused("a namespace of its own", lambda: call("unshare", 0x10000000))
refused("another personality", lambda: call("personality", 8))
refused("a raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
refused("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
refused("a netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
refused("the processes of others", lambda: os.stat("/proc/1/status"))
refused("io_uring", lambda: call("syscall", 425, 1, None))
refused("another user", lambda: os.setuid(0))
possible("write to /var/lib/portcullis", lambda: write("/var/lib/portcullis/probe"))
possible("write to /etc/portcullis", lambda: write("/etc/portcullis/probe"))
possible("write to its own /tmp", lambda: write("/tmp/probe"))
possible("a UDP socket", receive_buffer)
sys.exit(1 if wrong else 0)
