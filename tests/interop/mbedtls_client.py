"""One CoAP exchange over DTLS 1.2 with Mbed TLS: the request comes on standard input, the answer goes to standard output.

Arguments: host, port, suite (empty: its own list), then `psk IDENTITY KEY`, `server CA`, or `mutual CA CERT KEY`.
"""

import os
import socket
import sys

from mbedtls import pk, tls, x509


def pem(path):
    with open(path, encoding="ascii") as file:
        return file.read()


def main(host, port, suite, proof, *files):
    options = {"validate_certificates": False}
    if suite:
        options["ciphers"] = (suite,)
    if proof == "psk":
        options["pre_shared_key"] = (files[0], files[1].encode())
    else:
        options["validate_certificates"] = True
        options["trust_store"] = tls.TrustStore((x509.CRT.from_PEM(pem(files[0])),))
    if proof == "mutual":
        key = pk.ECC.from_PEM(pem(files[2]))
        options["certificate_chain"] = ((x509.CRT.from_PEM(pem(files[1])),), key)
    configuration = tls.DTLSConfiguration(**options)
    name = None if proof == "psk" else "localhost"
    plain = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    plain.settimeout(5)
    client = tls.ClientContext(configuration).wrap_socket(plain, server_hostname=name)
    client.connect((host, int(port)))
    client.do_handshake()
    client.send(os.read(0, 2048))
    sys.stdout.buffer.write(client.recv(2048))
    sys.stdout.flush()


main(*sys.argv[1:])
