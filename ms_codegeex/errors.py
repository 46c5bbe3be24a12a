"""What a command may end with, beside success."""

import re

# of a name in a damaged or hostile file: more lines, or what a terminal obeys
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class UserError(Exception):
    """A mistake in what the user gave us: a key, a file, a size.

    The message is one line that says what was found, where (key or file), what was expected and what to do.
    The command line prints it without a traceback and exits with status 2. Control characters in it are escaped.
    """

    def __init__(self, message: str):
        super().__init__(_CONTROL.sub(lambda match: ascii(match[0])[1:-1], message))


class PromptTooLong(UserError):
    """A prompt that leaves the model no room for an answer."""


class RunFailure(Exception):
    """A run that ended badly through no mistake in its input: a worker died, the loss is not a number. Exit status
    1."""


class NotFinite(RunFailure):
    """A run that ended at `step` because its loss or gradients were not finite: recent checkpoints are doubtful."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
