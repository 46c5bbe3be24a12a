"""A stream that stands for a terminal, and what may be printed on one. Tests with pseudo_terminal.py have a real
one."""

import io


def is_harmless(text):
    return all(c.isprintable() or c in "\n\t" for c in text)


class Stream(io.StringIO):
    """A stream that may be a terminal; encodings other than UTF-8 have not all characters."""

    def __init__(self, terminal=False, encoding="utf-8"):
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    encoding = property(lambda self: self._encoding)

    def isatty(self):
        return self._terminal
