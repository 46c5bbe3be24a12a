"""The one exception for mistakes a user can mend."""


class UserError(Exception):
    """A mistake in what the user gave us: a key, a file, a size.

    The message is one line that says what was found, where (key or file), what was expected and what to do.
    The command line prints it without a traceback and exits with status 2.
    """
