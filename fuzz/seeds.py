#!/usr/bin/env python3
"""Writes the seeds, from the wire formats as backplane-core/src/frame.rs and hub/wire/mod.rs document them."""

import pathlib
import struct


def varint(n):
    out = b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def frame(*payloads, version=1, publisher=7, flags=1, sequence=0):
    head = b"\xc1\x42" + struct.pack("<BQBQ", version, publisher, flags, sequence)
    return head + b"".join(varint(len(p)) + p for p in payloads)


def head(body, **fields):
    return frame(**fields) + body


SEEDS = {
    "one": frame(b"hello"),
    "empty": frame(b""),
    "several": frame(b"a", b"", b"bc" * 100, flags=0, sequence=41),
    "two_byte_length": frame(b"x" * 300),
    "newer": frame(b"hello", version=2),
    "no_message": frame(),
    "long_length": head(b"\x81\x80\x80\x80\x00x"),
    "endless_length": head(b"\xff" * 12),
    "lying": head(varint(2**35 - 1) + b"abc"),
    "last_number": frame(b"x", flags=0, sequence=2**64 - 2),
    "next_epoch": frame(b"x", flags=0, sequence=2**40 + 1),
    "text": b'{"not":"a frame"}',
}


def write(target, name, data):
    folder = pathlib.Path(__file__).parent / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def messages(*names):
    return b"".join(struct.pack("<H", len(SEEDS[n])) + SEEDS[n] for n in names)


for name, data in SEEDS.items():
    write("frame", name, data)
write("receive", "right", messages("one", "several", "next_epoch"))
write("receive", "again", messages("one", "one", "several", "one"))
write("receive", "mixed", messages("lying", "one", "newer", "text", "newer", "last_number"))
write("receive", "full", messages(*["two_byte_length", "empty", "several"] * 5))


ALL, NODE, GROUP, USER = range(4)


def packets(*pairs):
    return b"".join(struct.pack("<BH", channel, len(body)) + body for channel, body in pairs)


MESSAGE = b"\x95\x01\x00\xc0\xc0\x81\xa0\xc4\x01x"
TO_SOME = b"\x95\x01\x00\x92\x92\x02\xa1g\x92\x03\xa1u\x91\x92\x02\xa1h\x81\xa4json\xc4\x02{}"
JOIN = b"\x97\x01\x01\x05\xcd\x01\x2c\x00\xc4\x18" + bytes(24) + b"\xa1g"
INVOKE = b"\x97\x01\x01\x05\xcd\x01\x2c\x03\xc4\x18" + bytes(24) + b"\x81\xa0\xc4\x01x"
LIST = b"\x97\x01\x01\x05\xcd\x01\x2c\x05\x91\x91\x00\x91\x92\x03\xa1u"
ASK = b"\x97\x01\x01\x05\xcd\x01\x2c\x06\x81\xa0\xc4\x01x\xc0"
CANCEL = b"\x93\x01\x02\x05"
REPLY = b"\x96\x01\x03\x05\x00\x00\xc0"
HELLO, BYE = b"\x94\x01\x04\x09\x00", b"\x94\x01\x04\x09\x03"
HERE = b"\x96\x01\x04\x09\x01\x01\x92\x07\xcf" + b"\x01" * 8

write("hub", "messages", packets((ALL, MESSAGE), (GROUP, MESSAGE), (USER, MESSAGE), (ALL, TO_SOME)))
write("hub", "requests", packets((NODE, JOIN), (NODE, INVOKE), (ALL, LIST), (ALL, ASK), (NODE, CANCEL)))
write("hub", "presence", packets((ALL, HELLO), (NODE, HERE), (NODE, REPLY), (ALL, BYE)))
write("hub", "wrong", packets((NODE, MESSAGE), (ALL, b"hello"), (ALL, b"\x91\x07"), (GROUP, JOIN[:20])))
