"""What aiocoap does with the gateway: publish, read, observe, blocks both ways, errors.

Arguments: the gateway's base URI, for coaps a PSK identity and its key, and for coaps+tcp `--ca` and the trust anchor.
"""

import asyncio
import sys

import aiocoap
from aiocoap import (
    BAD_REQUEST,
    CHANGED,
    CONTENT,
    CREATED,
    DELETE,
    DELETED,
    FETCH,
    GET,
    NOT_FOUND,
    POST,
    PUT,
    UNAUTHORIZED,
    iPATCH,
)


def expect(response, code):
    assert response.code == code, f"{response.code} {response.payload[:100]!r}, not {code}"
    return response


async def main(base, identity=None, key=None):
    context = await aiocoap.Context.create_client_context()
    if identity == "--ca":
        context.client_credentials.load_from_dict({f"{base}/*": {"tlscert": {"certfile": key}}})
    elif identity is not None:
        credentials = {"psk": key.encode(), "client-identity": identity.encode()}
        context.client_credentials.load_from_dict({f"{base}/*": {"dtls": credentials}})

    async def ask(code, path, payload=b"", **options):
        message = aiocoap.Message(code=code, uri=base + path, payload=payload, **options)
        return await asyncio.wait_for(context.request(message).response, 20)

    expect(await ask(PUT, "/ps/py/a?retain=true", b"hello"), CHANGED)
    assert expect(await ask(GET, "/ps/py/a"), CONTENT).payload == b"hello"
    expect(await ask(POST, "/ps/py/a?retain=1&qos=2", b"again", content_format=60), CHANGED)
    response = expect(await ask(GET, "/ps/py/a"), CONTENT)
    assert response.payload == b"again" and response.opt.content_format == 60
    expect(await ask(DELETE, "/ps/py/a"), DELETED)
    expect(await ask(GET, "/ps/py/a"), NOT_FOUND)
    assert b"qos" in expect(await ask(PUT, "/ps/py/a?qos=abc", b"x"), BAD_REQUEST).payload

    core = expect(await ask(GET, "/.well-known/core"), CONTENT)
    assert b'rt="core.ps"' in core.payload and core.opt.content_format == 40

    body = bytes(range(256)) * 40
    expect(await ask(PUT, "/ps/py/long?retain=1", body), CHANGED)
    assert expect(await ask(GET, "/ps/py/long"), CONTENT).payload == body

    wanted = [b"kept", b"1", b"2", body, b"3"]
    expect(await ask(PUT, "/ps/py/o?retain=1", b"kept"), CHANGED)
    request = context.request(aiocoap.Message(code=GET, uri=base + "/ps/py/o", observe=0))
    first = expect(await asyncio.wait_for(request.response, 20), CONTENT)
    got = [first.payload]
    notifications = aiter(request.observation)
    for payload in wanted[1:]:
        expect(await ask(PUT, "/ps/py/o", payload), CHANGED)
        got.append((await asyncio.wait_for(anext(notifications), 20)).payload)
    assert got == wanted, [payload[:20] for payload in got]
    request.observation.cancel()

    # {0: "py/made", 2: "core.ps.data", 6: 7}
    made = bytes.fromhex("a3 00 6770792f6d616465 02 6c636f72652e70732e64617461 06 07")
    created = expect(await ask(POST, "/ps", made, content_format=606), CREATED)
    path = "/" + "/".join(created.opt.location_path)
    assert created.opt.content_format == 606 and created.payload.endswith(made[-2:])
    listed = expect(await ask(FETCH, "/ps", bytes.fromhex("a1 06 07"), content_format=606), CONTENT)
    assert listed.payload == f"<{path}>".encode() and listed.opt.content_format == 40, listed.payload
    part = expect(await ask(FETCH, path, bytes.fromhex("81 06"), content_format=60), CONTENT)
    assert part.payload == bytes.fromhex("a1 06 07"), part.payload
    expect(await ask(GET, "/ps/py/made", observe=0), NOT_FOUND)
    expect(await ask(PUT, "/ps/py/made", b"1"), CREATED)
    patched = expect(await ask(iPATCH, path, bytes.fromhex("a1 06 08"), content_format=606), CHANGED)
    assert patched.payload.endswith(bytes.fromhex("06 08")), patched.payload
    expect(await ask(DELETE, path), DELETED)
    expect(await ask(GET, path), NOT_FOUND)

    conditional = context.request(aiocoap.Message(code=GET, uri=base + "/ps/py/c?c.gt=25&c.con=1", observe=0))
    expect(await asyncio.wait_for(conditional.response, 20), CONTENT)
    crossed = aiter(conditional.observation)
    for values in ([b"20"], [b"21", b"26"], [b"27", b"24"]):
        for value in values:
            expect(await ask(PUT, "/ps/py/c", value), CHANGED)
        told = (await asyncio.wait_for(anext(crossed), 20)).payload
        assert told == values[-1], (told, values)
    conditional.observation.cancel()

    for payload in (b"open", b"shut"):
        asked = expect(await ask(PUT, "/ps/py/valve?fresh=1&retain=1", payload), UNAUTHORIZED)
        expect(await ask(PUT, "/ps/py/valve?fresh=1&retain=1", payload, echo=asked.opt.echo), CHANGED)
        assert expect(await ask(GET, "/ps/py/valve"), CONTENT).payload == payload

    await context.shutdown()
    print("all good")


asyncio.run(main(*sys.argv[1:]))
