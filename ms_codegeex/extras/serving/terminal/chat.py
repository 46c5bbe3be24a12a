"""A conversation in the terminal.

A model that is tuned for chat gets messages. A base model continues text: all that the user types and the model answers
is one text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ms_codegeex.base.errors import RunFailure, UserError
from ms_codegeex.base.files import atomic_file
from ms_codegeex.base.options import declared
from ms_codegeex.base.printing import visible
from ms_codegeex.base.reading import given_text
from ms_codegeex.data.detection import detect
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.serving.model import STATE_CHAT
from ms_codegeex.extras.serving.terminal.asking import TASKS, AnswerPart, CodeTask, Model, Prompt
from ms_codegeex.extras.serving.terminal.printing import Printer
from ms_codegeex.generation.sampling import SamplingSettings, request_fields

FENCE = '"""'
PROMPT, MORE = "> ", ". "
HISTORY_LINES = 1000
SETTINGS = ("max_new_tokens", "seed", *(each.name for each in request_fields()))
BASE = (
    "This is a base model: it continues text and was not tuned to follow instructions. What you type is added to one "
    "text, which the model continues. After an empty line it continues. If the model was tuned for conversations, say "
    f"how they are written: {STATE_CHAT}."
)
TUNED = "This model is tuned for conversations."
HELP = """\
/language NAME          put this language's tag line in front of the text; without NAME: none
/translate SRC DST      translate the last code from one language into another; /translate SRC DST FILE: a file
/explain                explain the last code; also /comment, /document, /fix; with FILE: a file
/set NAME VALUE         change a setting, for example /set temperature 0.2; without words: show all
/clear                  forget the conversation
/save FILE              write the conversation to a new file
/help                   this list
/quit                   end (also Ctrl-D); Ctrl-C stops an answer
\"""                     alone in a line: begins and ends an entry of several lines"""


class QuitRequest(Exception):
    """Raised by /quit."""


class Chat:
    """One conversation. `enter` handles an entry of the user."""

    def __init__(self, model: Model, settings: SamplingSettings, console: Console, language: str = ""):
        self.model, self.settings, self.console = model, settings, console
        self.language = find_language(language).name if language else ""
        self.text = ""  # so far, with a base model
        self.messages: list[tuple[str, str]] = []
        self.last = ("", self.language)  # the code that tasks work on, and its language
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "language": self._set_language,
            "translate": self._translate,
            **{name: self._task(name) for name in TASKS},
            "set": self._set,
            "clear": self._clear,
            "save": self._save,
            "help": lambda _: self._say(HELP),
            "quit": self._quit,
        }

    def run(self, read: Callable[[str], str] = input, notice: str = "") -> None:
        """Handle entries until /quit or the end of the input. `notice` is printed first."""
        for words in filter(
            None, (notice, f"{self.model.name}. {TUNED if self.model.chat else BASE} /help: commands.")
        ):
            self._say(words)
        while True:
            try:
                self._try(self._entry(read))
            except KeyboardInterrupt:
                self._say("")  # Ctrl-C drops the line
            except EOFError:
                self._say("")
                return
            except QuitRequest:
                return
            except (UserError, RunFailure, UnicodeError) as error:
                self._say(str(error))

    def _try(self, entry: str) -> None:
        """Handle an entry. A system error does not end the conversation, unless its output is closed."""
        try:
            self.enter(entry)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UserError(str(error)) from None

    def _entry(self, read: Callable[[str], str]) -> str:
        """Read a line, or the lines between two fences."""
        entry = read(PROMPT)
        if entry.strip() == FENCE:
            entry = ""
            while (line := read(MORE)).strip() != FENCE:
                entry += f"{line}\n"
        try:
            entry.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError("the entry is not UTF-8; enter it in this encoding") from None
        return entry

    def enter(self, entry: str) -> None:
        """Run a command, or send text to the model."""
        words = entry.split()
        if entry.startswith("/") and words[0][1:].isalpha():
            command = self._commands.get(words[0][1:])
            if command is None:
                raise UserError(f"{words[0]} is not a command; /help lists the commands")
            command(words[1:])
        elif self.model.chat:
            self._converse(entry)
        else:
            self._continue(entry)

    def _continue(self, entry: str) -> None:
        newline = "\n" if entry and self.text and not self.text.endswith("\n") else ""
        text = self.text + newline + entry
        if not text and not self.language:
            raise UserError("there is no text yet: type the beginning of a program, or choose a /language")
        answer = self._answer(
            self.model.complete(Prompt(text, self.language, cut=True), self.settings), self.language, text
        )
        self.text = text + answer
        self.last = (entry + answer if entry else self.text, self.language)

    def _converse(self, entry: str) -> None:
        if not entry.strip():
            return
        messages = [*self.messages, ("user", entry)]
        answer = self._answer(self.model.converse(messages, self.settings))
        if answer:
            self.messages = [*messages, ("assistant", answer)]
            self.last = (answer, self.language)

    def _answer(self, pieces: Iterator[AnswerPart], language: str = "", before: str = "") -> str:
        """Print an answer as it comes, and return it: the part so far if Ctrl-C or an error stops it."""
        text, shown, remark = "", Printer(self.console, language, before), ""
        try:
            with closing(pieces):  # type: ignore[type-var]
                for piece in pieces:
                    text += piece.text
                    shown.feed(piece.text)
            remark = "" if text else "(nothing: the model ends the text here)"
        except KeyboardInterrupt:
            remark = "(stopped)"
        except (UserError, RunFailure) as error:
            if not text:
                raise
            remark = str(error)
        shown.end()
        if remark:
            self._say(remark)
        return text

    # --- commands ---

    def _set_language(self, words: list[str]) -> None:
        self.language = find_language(" ".join(words)).name if words else ""
        self._say(f"language: {self.language or 'none'}")

    def _translate(self, words: list[str]) -> None:
        if len(words) not in (2, 3):
            raise UserError("/translate: expected two languages, for example /translate Python Go, and perhaps a file")
        source, target = (find_language(word).name for word in words[:2])
        code, _ = self._code(words[2:], source)
        self._perform(CodeTask("translate", code, source, target), target)

    def _task(self, name: str) -> Callable[[list[str]], None]:
        def perform(words: list[str]) -> None:
            code, language = self._code(words, "")
            if not language:
                raise UserError(f"/{name}: the code's language is unknown; choose it with /language NAME")
            self._perform(CodeTask(name, code, language), "" if name == "explain" else language)

        return perform

    def _perform(self, task: CodeTask, language: str) -> None:
        """Print the answer to a task, in a language unless it is prose."""
        answer = self._answer(self.model.perform(task, replace(self.settings, n=1)), language)
        if answer and language:
            self.last = (answer, language)

    def _code(self, words: list[str], language: str) -> tuple[str, str]:
        """The code for a task, from a file or else the last code, and its language."""
        if not words:
            if not self.last[0].strip():
                raise UserError("there is no code yet: type some, or name a file")
            return self.last[0], language or self.last[1] or self.language
        path = Path(" ".join(words))
        try:
            code = given_text(os.path.join(os.curdir, path.expanduser()), "the code")  # `-` is a file, too
        except (RuntimeError, ValueError) as error:  # no such home directory, a null
            raise UserError(f"{path} cannot be read as text ({error})") from None
        if not code.strip():
            raise UserError(f"{path} has no code; name another file")
        detected = detect(path, code.encode()[:16384])
        return code, language or (detected.name if detected and detected.tag else self.language)

    def _set(self, words: list[str]) -> None:
        if not words:
            self._say("\n".join(f"{name} {getattr(self.settings, name)}" for name in SETTINGS))
            return
        kinds = {each.name: each.type for each in declared(SamplingSettings)}
        name = words[0].replace("-", "_")
        if name not in SETTINGS or len(words) != 2:
            raise UserError(f"/set: expected a setting and a value; settings are {', '.join(SETTINGS)}")
        try:
            value = kinds[name](words[1])
        except ValueError:
            raise UserError(f"/set: {name} takes a number, not {words[1]}") from None
        self.settings = replace(self.settings, **{name: value})
        self._say(f"{name} {value}")

    def _clear(self, words: list[str]) -> None:
        self.text, self.messages, self.last = "", [], ("", self.language)
        self._say("conversation forgotten")

    def _save(self, words: list[str]) -> None:
        if not words:
            raise UserError("/save: expected a file, for example /save answer.py")
        path = Path(" ".join(words))
        text = self.text or "".join(f"{role}: {content}\n\n" for role, content in self.messages)
        try:
            path = path.expanduser()
            if path.exists():
                raise UserError(f"{path} exists; give another name")
            with atomic_file(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"{path} cannot be written ({error})") from None
        self._say(f"{len(text)} characters in {path}")

    @staticmethod
    def _quit(words: list[str]) -> None:
        raise QuitRequest

    def _say(self, words: str) -> None:
        self.console.print(Text(visible(words), "dim"), highlight=False, soft_wrap=not self.console.is_terminal)


def history_path() -> Path:
    """`ms_codegeex/chat_history` in `$XDG_STATE_HOME` or `~/.local/state`; RuntimeError without a home directory."""
    base = os.environ.get("XDG_STATE_HOME", "")
    state = Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state"
    return state / "ms_codegeex" / "chat_history"


@contextmanager
def line_history(keep: bool) -> Iterator[str]:
    """Let `input` edit lines and recall earlier ones. With `keep`, lines of earlier sessions are loaded and new ones
    are saved. Yields the reason if they cannot be saved, else an empty text."""
    try:
        import readline
    except ImportError:  # a Python without readline can still read lines
        yield "this Python has no readline, so earlier lines are not kept"
        return
    try:
        path = _made() if keep else None
        if path is not None:
            readline.read_history_file(path)
        reason = ""
    except (OSError, RuntimeError) as error:
        path, reason = None, f"earlier lines are not kept: {error}"
    readline.set_history_length(HISTORY_LINES)
    before = readline.get_current_history_length()
    try:
        yield reason
    finally:
        added = readline.get_current_history_length() - before
        if path is not None and added > 0:
            readline.append_history_file(added, path)


def _made() -> Path:
    path = history_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
    path.chmod(0o600)
    return path
