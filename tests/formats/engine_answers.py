"""What the programs of all engines do: read requests and print answers, as JSON. Runs in each engine's environment."""

import contextlib
import json
import sys


def answer_all(answers, after=lambda: None):
    """`answers` of each request, or its error; `after` runs behind each. What the engine prints is not an answer."""
    results = []
    with contextlib.redirect_stdout(sys.stderr):
        for request in json.load(sys.stdin):
            try:
                results.append(answers(request))
            except Exception as error:
                results.append({"error": f"{type(error).__name__}: {error}"[:2000]})
            after()
    json.dump({"results": results}, sys.stdout)
