"""The errors that end a command."""

import contextlib
import difflib
import errno
from collections.abc import Iterator, Sequence

FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of a machine, which are no mistake of the user
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
    """What helps against an error of the system, with what helps against any."""
    return f"{_REMEDIES[error.errno]}, or {otherwise}" if error.errno in _REMEDIES else otherwise


def escaped(text: str, keep: str = "") -> str:
    """The text with control characters and invisible characters spelled out, line breaks too unless `keep` has them. A
    name in a damaged or hostile file may contain them, and could then move a terminal's cursor or reverse the order of
    its letters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: object) -> str:
    """The first line of an error's message, which may be long; its class's name if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def suggestion(name: str, known: Sequence[str]) -> str:
    """The known name that is closest to a wrong one, or all of them."""
    lowered = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), lowered, 1, 0.5)
    return f"did you mean '{lowered[close[0]]}'?" if close else f"known here: {', '.join(known) or 'none'}"


class UserError(Exception):
    """A mistake in the user's input: a key, a file, a size. The message is one line: what was found and where (key or
    file), what was expected, and what to do. The command line prints it without a traceback and exits with status 2.
    Control characters in it are escaped."""

    def __init__(self, message: str):
        super().__init__(escaped(message))


@contextlib.contextmanager
def located(where: object) -> Iterator[None]:
    """A `UserError` from inside begins with this place."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


class PromptTooLong(UserError):
    """A prompt that leaves the model no room for an answer."""


class RunFailure(Exception):
    """A run that failed for a reason other than its input: a worker died, the loss is not a number. Exit status 1."""


class NetworkLost(RunFailure):
    """The processes that hold a model have ended: no request can be computed until it is loaded again."""


class Rewind(RunFailure):
    """An attempt that ended to leave a batch out: the next one continues from the newest checkpoint."""


class ReplicaFailure(RunFailure):
    """A run whose ranks hold different copies of a weight: checkpoints after `step` are not to be trusted."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


class Divergence(RunFailure):
    """A run that ended at `step` because its loss or gradients were not finite: do not trust recent checkpoints."""

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step
