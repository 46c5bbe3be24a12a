"""What a command may end with, beside success."""


class UserError(Exception):
    """A mistake in what the user gave us: a key, a file, a size.

    The message is one line that says what was found, where (key or file), what was expected and what to do.
    The command line prints it without a traceback and exits with status 2.
    """


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
