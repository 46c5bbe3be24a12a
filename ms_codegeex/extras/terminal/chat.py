"""A conversation in the terminal. A model that is tuned for chat gets messages. A base model continues one text, of all
that the user types and the model answers."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ms_codegeex.base.errors import RunFailure, UserError, suggestion
from ms_codegeex.base.options import declared
from ms_codegeex.base.printing import print_content, print_out
from ms_codegeex.data.conversations import STATE_CHAT
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.shared.server_answers import AnswerPart
from ms_codegeex.generation.sampling import SamplingSettings, request_fields

if TYPE_CHECKING:
    from ms_codegeex.extras.terminal.opening import Model

SETTINGS = ("max_new_tokens", "seed", *(each.name for each in request_fields()))
COMMANDS = ("/set", "/clear", "/help", "/quit")
BASE = f"""a base model: it continues text and was not tuned to follow instructions.
What you type is added to one text, which the model continues, also after an empty line.
If it was tuned for conversations, say how they are written: {STATE_CHAT}."""
HELP = """\
/set NAME VALUE   change a setting, for example /set temperature 0.2; without words: show all
/clear            forget the conversation
/help             this list
/quit             end (also Ctrl-D); Ctrl-C stops an answer
\"""               alone in a line: begins and ends an entry of several lines"""


class Chat:
    """One conversation. `enter` handles one entry of the user."""

    def __init__(self, model: Model, settings: SamplingSettings, language: str | None = None):
        self.model, self.settings = model, settings
        self._how: dict[str, Any] = {
            "language": find_language(language).name if language else None,
            "truncate_prompt": model.extended or None,
        }
        self.text = ""  # the text so far, for a base model
        self.messages: list[tuple[str, str]] = []

    def run(self, read: Callable[[str], str] = input) -> None:
        """Handle entries until /quit or the end of the input."""
        kind = "a model tuned for conversations." if self.model.chat else BASE
        print_out(f"{self.model.name}, {kind} /help: commands.")
        while True:
            try:
                entry = read("> ")
                if entry.strip() == '"""':
                    entry = "".join(f"{line}\n" for line in iter(lambda: read(". ").rstrip(), '"""'))
                entry.encode("utf-8")
                self.enter(entry)
            except KeyboardInterrupt:
                print_out()  # Ctrl-C drops the line
            except EOFError:
                print_out()
                return
            except UnicodeError as error:
                print_out(f"the entry is not UTF-8 ({error}); enter it in this encoding")
            except (UserError, RunFailure) as error:
                print_out(str(error))

    def enter(self, entry: str) -> None:
        """Run a command, or send text to the model. Raises `EOFError` for /quit."""
        command, _, words = entry.strip().partition(" ")
        if entry.startswith("/") and command[1:].isalpha():
            self._command(command, words.strip())
        elif not self.model.chat:
            newline = "\n" if entry and self.text and not self.text.endswith("\n") else ""
            text = self.text + newline + entry
            if not text and not self._how["language"]:
                raise UserError("there is no text yet: type the beginning of a program, or give --language")
            self.text = text + _answer(self.model.complete(self.settings, {**self._how, "prompt": text}))
        elif entry.strip():
            messages = [*self.messages, ("user", entry)]
            if answer := _answer(self.model.converse(self.settings, messages)):
                self.messages = [*messages, ("assistant", answer)]

    def _command(self, command: str, words: str) -> None:
        match command:
            case "/set":
                name, _, value = words.partition(" ")
                kinds = {each.name: each.type for each in declared(SamplingSettings, SETTINGS)}
                if (name := name.replace("-", "_")) not in {"", *kinds}:
                    raise UserError(f"/set: {name} is not a setting; {suggestion(name, SETTINGS)}")
                try:
                    self.settings = replace(self.settings, **({name: kinds[name](value)} if name else {}))
                except ValueError:
                    raise UserError(f"/set: {name} takes a number, not {value or 'nothing'}") from None
                shown = [name] if name else SETTINGS
                print_out("\n".join(f"{each} {getattr(self.settings, each)}" for each in shown))
            case "/clear":
                self.text, self.messages = "", []
                print_out("conversation forgotten")
            case "/help":
                print_out(HELP)
            case "/quit":
                raise EOFError
            case _:
                raise UserError(f"{command} is not a command; {suggestion(command, COMMANDS)}")


def _answer(pieces: Iterator[AnswerPart]) -> str:
    text, remark = "", ""
    try:
        with closing(pieces):  # type: ignore[type-var]
            for piece in pieces:
                text += piece.text
                print_content(piece.text)
        remark = "" if text else "(nothing: the model ends the text here)"
    except KeyboardInterrupt:
        remark = "(stopped)"
    except (UserError, RunFailure) as error:
        if not text:
            raise
        remark = str(error)
    print_out(("" if text.endswith("\n") or not text else "\n") + (f"{remark}\n" if remark else ""), end="")
    return text


def edit_lines(keep: bool) -> None:
    """Let `input` edit lines and recall earlier ones. With `keep` they include those of earlier sessions, from
    `ms_codegeex/chat_history` in `$XDG_STATE_HOME` or `~/.local/state`. If they cannot be kept, print the reason."""
    try:
        import readline

        if keep:
            path = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "ms_codegeex/chat_history"
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600))
            readline.read_history_file(path)
            known = readline.get_current_history_length()
            atexit.register(lambda: readline.append_history_file(readline.get_current_history_length() - known, path))
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: there is no home directory
        print_out(f"earlier lines are not kept: {error}")
