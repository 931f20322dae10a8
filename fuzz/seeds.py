#!/usr/bin/env python3
"""Writes the seeds, from the wire format as backplane-core/src/frame.rs documents it."""

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
