"""Is this GGUF file whole? Reads the header and compares what it promises with the size of the file.

A truncated download otherwise fails deep inside array code, or not at all. The layout is that of the GGUF
specification, versions 2 and 3: magic, version, counts, key-value pairs, tensor descriptions, padding, data.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from corrigenda.errors import ModelDamaged

_SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_REMEDY = "Fetch the file again."


def check_gguf(path: Path) -> None:
    """Refuse a file that is not GGUF or ends before its last tensor does. Takes about 0.1 s.

    Raises:
        ModelDamaged: Wrong magic, unsupported version, unreadable header, or data missing at the end.
    """
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ModelDamaged(f"{path} is not a GGUF file", remedy="Give a GGUF file or a checkpoint folder.")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                needed = _Header(data).end_of_data()
            except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
                raise ModelDamaged(f"the header of {path} cannot be read: {error}", remedy=_REMEDY) from error
            if needed > len(data):
                raise ModelDamaged(f"{path} is truncated: {len(data):,} of at least {needed:,} bytes", remedy=_REMEDY)


class _Header:
    """A cursor over the header."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.place = 4
        self.alignment = 32

    def end_of_data(self) -> int:
        """Return the byte after the last tensor, as the header promises it."""
        if (version := self.number("<I")) not in (2, 3):
            raise KeyError(f"version {version}")
        tensors, pairs = self.number("<Q"), self.number("<Q")
        for _ in range(pairs):
            self.pair()
        end = max((self.tensor() for _ in range(tensors)), default=0)
        start = -(-self.place // self.alignment) * self.alignment
        return start + end

    def number(self, layout: str) -> int:
        value: int
        (value,) = struct.unpack_from(layout, self.data, self.place)
        self.place += struct.calcsize(layout)
        return value

    def text(self) -> bytes:
        length = self.number("<Q")
        if self.place + length > len(self.data):
            raise IndexError("text reaches beyond the end of the file")
        self.place += length
        return self.data[self.place - length : self.place]

    def pair(self) -> None:
        key, kind = self.text(), self.number("<I")
        if key == b"general.alignment" and kind == 4:
            self.alignment = max(self.number("<I"), 1)
        else:
            self.skip(kind)

    def skip(self, kind: int) -> None:
        if kind == _STRING:
            self.text()
        elif kind == _ARRAY:
            item, count = self.number("<I"), self.number("<Q")
            if item in _SCALAR_BYTES:
                self.place += _SCALAR_BYTES[item] * count
            else:
                for _ in range(count):
                    self.skip(item)
        else:
            self.place += _SCALAR_BYTES[kind]

    def tensor(self) -> int:
        """Read one tensor description and return where its data end, from the start of the data section."""
        self.text()
        count = 1
        for _ in range(self.number("<I")):
            count *= self.number("<Q")
        kind, offset = self.number("<I"), self.number("<Q")
        try:
            block, width = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except ValueError as error:
            raise KeyError(f"tensor type {kind}") from error
        return offset + -(-count // int(block)) * int(width)
