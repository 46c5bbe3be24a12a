"""Call one function of a program and report what it returns, as typed plain values. Runs in the sandbox.

    python typed_calls.py

The program is program.py; `calls` is what `marshal` makes: the function's name, and for each call the encoded list of
its arguments (see `ValueEncoder`). Standard input is the secret of `program.py`'s report, which has the values as far
as the calls got. Nothing here knows an expected value, so whatever the program does to this process, it can only choose
its values.
"""

from __future__ import annotations

import marshal

from program import Reporter, execute, guarded, seed
from typed import ValueEncoder, decoded


def main() -> None:
    """Run the program, then make the calls."""
    with open("program.py", encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    with open("calls", "rb") as file:
        name, calls = marshal.load(file)
    reporter, values, names = Reporter(), [], {}

    def make() -> None:
        for arguments in calls:
            # encoded at once, since the program may change the value later
            values.append(ValueEncoder()(names[name](*decoded(arguments))))

    seed(source)
    ended = execute(source, lambda code: exec(code, names)) or guarded(make)
    reporter.write_report(ended, {"values": values})


if __name__ == "__main__":
    main()
