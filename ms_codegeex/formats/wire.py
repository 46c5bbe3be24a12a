"""The wire format of protocol buffers, read by position and written by size, so that large fields stay in the file.

The `google.protobuf` package reads whole messages only; a checkpoint is one message of many gigabytes. A message is a
run of fields: a varint that holds number and kind, then a varint, 8 or 4 bytes, or a length and that many bytes
(https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import BinaryIO

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_FIXED = {FIXED32: 4, FIXED64: 8}  # bytes
_MAX_VARINT_BYTES = 10  # bytes of a 64-bit number
_MAX_TEXT_BYTES = 1 << 16  # a name; a damaged length must not read the whole file


class WireError(ValueError):
    """Bytes that are not the expected message; the text names the position and the reason."""


Value = int | range  # a number's bits, or where a field's bytes are in the stream


class WireReader:
    """Reads messages out of a seekable stream. Every method raises `WireError` for what cannot be a message."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        self._stream.seek(position)
        data = self._stream.read(min(_MAX_VARINT_BYTES, end - position))
        value = 0
        for k, byte in enumerate(data):
            value |= (byte & 127) << (7 * k)
            if byte < 128:
                if value >= 1 << 64:
                    break
                return value, position + k + 1
        raise WireError(f"no number at byte {position}")

    def fields(self, span: range) -> Iterator[tuple[int, Value]]:
        """(number, value) of each field."""
        position, end = span.start, span.stop
        while position < end:
            key, position = self._varint(position, end)
            number, kind = key >> 3, key & 7
            if kind in (VARINT, LENGTH):
                size, position = self._varint(position, end)
            elif (size := _FIXED.get(kind, 0)) == 0:
                raise WireError(f"a field of kind {kind} before byte {position}")
            if kind == VARINT:
                yield number, size
                continue
            if size > end - position:
                raise WireError(f"{size} bytes from byte {position} leave what ends at byte {end}")
            yield number, range(position, position + size)
            position += size

    def message(self, value: Value, known: Iterable[int]) -> dict[int, list[Value]]:
        """All fields of a message by number, in order; a field of another number is an error."""
        if not isinstance(value, range):
            raise WireError(f"the number {value} in place of a message")
        fields: dict[int, list[Value]] = {number: [] for number in known}
        for number, item in self.fields(value):
            if number not in fields:
                raise WireError(f"an unknown field {number} in what ends at byte {value.stop}")
            fields[number].append(item)
        return fields

    def text(self, value: Value, most: int = _MAX_TEXT_BYTES) -> str:
        """The UTF-8 text of a field, of at most so many bytes."""
        if not isinstance(value, range):
            raise WireError(f"the number {value} in place of a text")
        if len(value) > most:
            raise WireError(f"a text of {len(value)} bytes at byte {value.start}")
        self._stream.seek(value.start)
        try:
            return self._stream.read(len(value)).decode()
        except UnicodeDecodeError:
            raise WireError(f"no text at byte {value.start}") from None

    def integers(self, values: Iterable[Value]) -> tuple[int, ...]:
        """A repeated field of signed numbers, packed or not."""
        numbers: list[int] = []
        for value in values:
            if isinstance(value, int):
                numbers.append(value)
                continue
            position = value.start
            while position < value.stop:
                number, position = self._varint(position, value.stop)
                numbers.append(number)
        return tuple(number - (1 << 64) if number >= 1 << 63 else number for number in numbers)


def only(values: list[Value], what: str) -> Value:
    """The value of a field that occurs exactly once."""
    if len(values) != 1:
        raise WireError(f"{what} occurs {len(values)} times")
    return values[0]


def varint(value: int) -> bytes:
    """A number that is not negative, as written in a message."""
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


def number_field(number: int, value: int) -> bytes:
    """A field with a number that is not negative."""
    return varint(number << 3 | VARINT) + varint(value)


def length_field(number: int, size: int) -> bytes:
    """The beginning of a field of `size` bytes, which have to follow."""
    return varint(number << 3 | LENGTH) + varint(size)
