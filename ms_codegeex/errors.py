"""The errors that end a command."""

import re

# a name in a damaged or hostile file may contain line breaks or terminal escapes
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def escaped(text: str) -> str:
    """The text with its control characters spelled out, so that it cannot move a terminal's cursor."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


class UserError(Exception):
    """A mistake in the user's input: a key, a file, a size.

    The message is one line: what was found and where (key or file), what was expected, and what to do. The command
    line prints it without a traceback and exits with status 2. Control characters in it are escaped.
    """

    def __init__(self, message: str):
        super().__init__(escaped(message))


class PromptTooLong(UserError):
    """A prompt that leaves the model no room for an answer."""


class RunFailure(Exception):
    """A run that failed for a reason other than its input: a worker died, the loss is not a number. Exit status 1."""


class Rewind(RunFailure):
    """An attempt that ended to leave a batch out: the next one continues from the newest good checkpoint."""


class Corrupted(RunFailure):
    """A run whose ranks hold different copies of a weight: checkpoints after `step` are not to be trusted."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class NotFinite(RunFailure):
    """A run that ended at `step` because its loss or gradients were not finite: do not trust recent checkpoints."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
