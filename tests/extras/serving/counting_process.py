"""In place of the engine's process, which takes seconds to start: after each id comes the next number, one each 10 ms.
It speaks the engine program's protocol (test_serving_engine.py has the real one) and does not import MindSpore."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from ms_codegeex.extras.serving.messages import packed, receive


def main(descriptor: int) -> None:
    """Answer until the connection ends."""
    connection = Connection(descriptor)
    assert receive(connection)  # the options of a `Generator`
    connection.send_bytes(packed({"slots": 2}))
    left: dict[int, list[int]] = {}  # the last id of each answer, and the number of ids to come
    while True:
        if not connection.poll(0.01):
            if left:
                news = [following(left, number) for number in list(left)]
                connection.send_bytes(packed([news, [0] * 8, [*left]]))
            continue
        try:
            name, *values = receive(connection)
        except EOFError:
            return
        if name == "ping":
            connection.send_bytes(packed([]))
        elif name == "cancel":
            left.pop(values[0], None)
        else:
            left[values[0]] = [values[1][-1], values[2]["max_new_tokens"]]


def following(left: dict[int, list[int]], number: int) -> list:
    """The news of an answer."""
    last, count = left.pop(number)
    if count > 1:
        left[number] = [last + 1, count - 1]
    return [number, [[last + 1, -0.5, []]], None if count > 1 else "length", 1]


if __name__ == "__main__":
    main(int(sys.argv[1]))
