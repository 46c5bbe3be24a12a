"""Exceptions that end a command, and helpers for their messages."""

import contextlib
import difflib
import errno
from collections.abc import Iterator, Sequence

FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # the machine's fault, not the user's
_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space of your quota",
    errno.EIO: "see the system's log, since the disk may be failing",
    errno.EROFS: "mount its file system for writing",
    errno.EACCES: "check its owner and mode",
    errno.EPERM: "check its owner and mode",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ENOTDIR: "check its path, of which a part is a file",
    errno.EISDIR: "name a file, not a directory",
    errno.EFBIG: "allow larger files (ulimit -f)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def remedy_of(error: OSError, otherwise: str = "choose another place") -> str:
    """Return the remedy for a system error, followed by `otherwise`, which helps against any error."""
    return f"{_REMEDIES[error.errno]}, or {otherwise}" if error.errno in _REMEDIES else otherwise


def escaped(text: str, keep: str = "") -> str:
    """Return the text with control and invisible characters spelled out, including line breaks unless `keep` has them.
    Names in damaged or hostile files may contain such characters, which could move a terminal's cursor or reverse the
    order of letters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: object) -> str:
    """Return the first line of an error's message, or the name of its class if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return a hint: the known name closest to a wrong one, or all known names."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), lowered, 1, 0.5)
    return f"did you mean '{lowered[close[0]]}'?" if close else f"known here: {', '.join(known) or 'none'}"


class UserError(Exception):
    """A mistake in the user's input: a key, a file, a size. The message is one line: what was found and where (key or
    file), what was expected, and what to do. Control characters in it are escaped. The command line prints it without a
    traceback and exits with status 2."""

    def __init__(self, message: str):
        super().__init__(escaped(message))


@contextlib.contextmanager
def located(where: object) -> Iterator[None]:
    """Prefix a `UserError` from the block with the place `where`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


class PromptTooLong(UserError):
    """A prompt that leaves the model no room for an answer."""


class RunFailure(Exception):
    """A run that failed for a reason other than its input: a worker died, the loss is not a number. Exit status 1."""


class NetworkLost(RunFailure):
    """The processes that hold a model have ended. No request can be computed until the model is loaded again."""


class Rewind(RunFailure):
    """An attempt that ended at a bad batch. The next continues from the newest checkpoint without it."""


class ReplicaFailure(RunFailure):
    """A run whose ranks hold different copies of a weight. Checkpoints after `step` cannot be trusted."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Divergence(RunFailure):
    """A run that ended at `step` because its loss or gradients were not finite. Do not trust recent checkpoints."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
