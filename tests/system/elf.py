# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF kernels made to measure (System V gABI, chapter 5)."""
import struct

PT_LOAD, PT_NOTE = 1, 4
NOTE_PHYS32_ENTRY = 18  # Xen public/elfnote.h
NOTE_RING3 = 1          # guest-images/unikernel/weft_boot.h


class Load:
    def __init__(self, address, data, memory_size=None):
        self.address, self.data = address, data
        self.memory_size = len(data) if memory_size is None else memory_size


def note(name, kind, value):
    text = name.encode() + b"\0"
    return struct.pack("<III", len(text), len(value), kind) + text.ljust((len(text) + 3) & ~3, b"\0") + value


class Elf:
    def __init__(self, segments, entry=0x100000, pvh_entry=None, ring3=None):
        self.segments, self.entry = segments, entry
        self.notes = b""
        if pvh_entry is not None:
            self.notes += note("Xen", NOTE_PHYS32_ENTRY, struct.pack("<I", pvh_entry))
        if ring3 is not None:
            self.notes += note("weft", NOTE_RING3, struct.pack("<I", ring3))

    def build(self):
        headers, body = [], b""
        count = len(self.segments) + bool(self.notes)
        start = 64 + 56 * count
        for segment in self.segments:
            headers.append(struct.pack("<IIQQQQQQ", PT_LOAD, 7, start + len(body), segment.address,
                                       segment.address, len(segment.data), segment.memory_size, 4096))
            body += segment.data
        if self.notes:
            body += b"\0" * (-(start + len(body)) % 4)
            headers.append(struct.pack("<IIQQQQQQ", PT_NOTE, 4, start + len(body), 0, 0, len(self.notes),
                                       len(self.notes), 4))
            body += self.notes
        header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, self.entry, 64, 0, 0, 64, 56,
                             count, 0, 0, 0)
        return header + b"".join(headers) + body
