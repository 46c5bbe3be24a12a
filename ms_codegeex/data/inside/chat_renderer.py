"""Renders chat templates of models, which are Jinja programs of strangers: `python -I chat_renderer.py`, a process of
its own with limits of time and memory. It imports nothing of the package. A line with a request as JSON on standard
input, {"template", "values"}, gives a line with {"text", "spans"} or {"error"}; `spans` are the parts of the text
inside `{% generation %}`.

The environment is that of transformers (utils/chat_template_utils.py): immutable, sandboxed, without a loader, so a
template reaches no file and no other template."""

import contextlib
import datetime
import json
import math
import resource
import signal
import sys

import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2  # of the CPU, for one request; the system ends the process after that
MEMORY = 1 << 30  # bytes
LONGEST = 1 << 24  # characters


class Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}` around what the assistant says."""

    tags = frozenset(("generation",))

    def __init__(self, environment: jinja2.Environment) -> None:
        super().__init__(environment)
        environment.extend(said=[], spans=[])

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        """The block as a call of `_kept`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_kept"), [], [], body).set_lineno(line)

    def _kept(self, caller: jinja2.runtime.Macro) -> str:
        text, start = caller(), sum(map(len, self.environment.said))
        self.environment.spans.append([start, start + len(text)])
        return text


def _refused(message: str) -> None:
    raise jinja2.TemplateError(str(message))


def _json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment() -> ImmutableSandboxedEnvironment:
    """The environment as transformers sets it up."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = _json
    made.globals |= {"raise_exception": _refused, "strftime_now": lambda how: datetime.datetime.now().strftime(how)}
    return made


def rendered(env: ImmutableSandboxedEnvironment, template: jinja2.Template, values: dict) -> dict:
    """The text, and where its generations are."""
    env.said.clear()
    env.spans.clear()
    size = 0
    for piece in template.generate(**values):
        env.said.append(piece)
        size += len(piece)
        if size > LONGEST:
            return {"error": f"it gives more than {LONGEST:,} characters"}
    text = "".join(env.said)
    text.replace("\udfff", "").encode()  # fails for half characters, but for the one that marks names that are text
    return {"text": text, "spans": env.spans}


def main() -> None:
    """Answer requests until the end of the input."""
    env, known = environment(), {}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that asks, which decides when this ends
    with contextlib.suppress(ValueError, OSError):  # not every system has each limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = math.ceil(used.ru_utime + used.ru_stime) + SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        try:
            request = json.loads(line)
            text = request["template"]
            if text not in known:
                known[text] = env.from_string(text)
            answer = rendered(env, known[text], request["values"])
        except RecursionError:
            answer = {"error": "it calls itself without end"}
        except MemoryError:
            answer = {"error": f"it needs more than {MEMORY >> 20:,} MiB"}
        except Exception as error:  # whatever a stranger's program raises
            answer = {"error": str(error).strip().split("\n")[0][:300] or type(error).__name__}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
