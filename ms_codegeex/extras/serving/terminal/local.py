"""Answers from a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.languages import find_language
from ms_codegeex.extras.serving.answering import AnswerText, TextFilter
from ms_codegeex.extras.serving.infilling import infill_filter, infill_prompt
from ms_codegeex.extras.serving.model import described_model
from ms_codegeex.extras.serving.prompts import TASKS, UserCode, translation
from ms_codegeex.extras.serving.terminal.asking import TOO_LONG, AnswerPart, CodeTask, Prompt
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.stopping import Rule
from ms_codegeex.kernels.levels import AUTO

if TYPE_CHECKING:
    from ms_codegeex.generation.scheduler import Request

FINISH = {"eos": "stop"}  # the engine's reasons by OpenAI's names


class TerminalModel:
    """The model at `path`, loaded as in `generate`. `slots` answers are computed at once."""

    def __init__(
        self, path: Path, slots: int = 1, threads: int | None = None, cpu_level: str = AUTO, exact: bool = False
    ):
        model = load_model(path)
        self._model = described_model(model, path)
        self.name, self.chat = self._model.name, self._model.chat is not None
        from ms_codegeex.generation.engine import Generator
        from ms_codegeex.generation.targets import MAX_SLOTS

        how = {"threads": threads, "cpu_level": cpu_level, "exact": exact}
        self._generator = Generator(model, slots=min(slots, MAX_SLOTS), **how)

    def complete(self, prompt: Prompt, settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Continue a text."""
        if prompt.block and not prompt.language:
            raise UserError("--stop-at: the prompt's language is unknown; name it with --language")
        text = self._model.tagged(prompt.text, prompt.language or None)
        rule = block(prompt.language, prompt.text) if prompt.block else None
        if prompt.suffix is None:
            room = settings.max_new_tokens if prompt.cut else None
            ids = self._model.encode(text, room=room, remedy=TOO_LONG["prompt"])
            return self._answers(ids, settings, rule)
        room, remedy = (settings.max_new_tokens, "") if prompt.cut else (1, TOO_LONG["prompt"])
        ids, _, ends = infill_prompt(self._model, text, prompt.suffix, self._model.context - room, remedy)
        settings = replace(settings, stop=(*settings.stop, *ends))
        return self._answers(ids, settings, rule, lambda: infill_filter(self._model, prompt.suffix or ""))

    def perform(self, task: CodeTask, settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Answer an assistant task."""
        if task.name == "translate":
            prompt = translation(task.language, task.target, task.code)
        else:
            source = UserCode(task.code, find_language(task.language), self._model.family)
            prompt = TASKS[task.name][1](source)
        ids = self._model.encode(prompt.text, field="code", remedy=TOO_LONG["code"])
        settings = replace(settings, stop=(*settings.stop, *prompt.stop))
        return self._answers(ids, settings, prompt.rule, prompt.text_filter)

    def converse(self, messages: Sequence[tuple[str, str]], settings: SamplingSettings) -> Iterator[AnswerPart]:
        """Answer the last of (role, content) messages."""
        template = self._model.chat
        if template is None:
            raise UserError(f"{self.name} is a base model, which continues text and was not tuned for chat")
        text = template.prompt(messages)
        settings = replace(settings, stop=(*settings.stop, *template.stop))
        ids = self._model.encode(text, field="messages", remedy=TOO_LONG["messages"])
        return self._answers(ids, settings)

    def _answers(
        self,
        ids: Sequence[int],
        settings: SamplingSettings,
        rule: Rule | None = None,
        filters: Callable[[], TextFilter] = TextFilter,
    ) -> Iterator[AnswerPart]:
        """The answers one after the other. They are computed together, as far as there are slots."""
        seeds = range(settings.seed, settings.seed + settings.n)
        requests = [self._generator.request(ids, replace(settings, seed=seed, n=1)) for seed in seeds]
        try:
            for index, request in enumerate(requests):
                yield from self._answer(index, request, rule, filters())
        finally:
            for request in requests:
                request.cancel()

    def _answer(self, index: int, request: Request, rule: Rule | None, through: TextFilter) -> Iterator[AnswerPart]:
        text = AnswerText(self._model.tokenizer, request.ids[: request.prompt], request.settings, rule, through)
        for chosen in request:
            text.feed(chosen)
            if text.finish is not None:
                break
            if text.waiting:
                yield AnswerPart(index, text.take().text)
        request.cancel()
        text.end(FINISH.get(request.finish, request.finish))
        yield AnswerPart(index, text.take().text, text.finish)
