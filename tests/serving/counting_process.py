"""In place of the engine's process, which takes seconds to start: after each id comes the next number, one each 10 ms.
It speaks the worker's protocol (test_serving_engine.py has the real one) and does not import MindSpore."""

from __future__ import annotations

import select
import socket
import sys

from ms_codegeex.serving.messages import Unpacker, packed, receive


def main(descriptor: int) -> None:
    """Answer until the connection ends."""
    connection, unpacker = socket.socket(fileno=descriptor), Unpacker()
    assert receive(connection, unpacker)  # the options of a `Generator`
    connection.sendall(packed({"slots": 2}))
    left: dict[int, list[int]] = {}  # the last id of each answer, and the number of ids to come
    while True:
        if not select.select([connection], [], [], 0.01)[0]:
            if left:
                connection.sendall(packed([[following(left, number) for number in list(left)], [0, 0, 0, 0]]))
            continue
        messages = receive(connection, unpacker)
        if messages is None:
            return
        for name, *values in messages:
            if name == "ping":
                connection.sendall(packed([]))
            elif name == "cancel":
                left.pop(values[0], None)
            else:
                left[values[0]] = [values[1][-1], values[2]["max_new_tokens"]]


def following(left: dict[int, list[int]], number: int) -> list:
    """The news of an answer."""
    last, count = left.pop(number)
    if count > 1:
        left[number] = [last + 1, count - 1]
    return [number, [[last + 1, -0.5, []]], None if count > 1 else "length"]


if __name__ == "__main__":
    main(int(sys.argv[1]))
