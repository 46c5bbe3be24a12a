"""Answers from a model in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.extras.serving.answering import AnswerText
from ms_codegeex.extras.serving.infilling import infill_filter, infill_prompt
from ms_codegeex.extras.serving.model import described_model
from ms_codegeex.extras.shared.server_answers import AnswerPart
from ms_codegeex.generation.blocks import block
from ms_codegeex.generation.loading import load_model
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.generation.stopping import Rule
from ms_codegeex.generation.text_options import TOO_LONG


class TerminalModel:
    """The model at `path`, loaded as in `generate`. At most `slots` answers are computed at once. `special_tokens` is
    as in `ServedModel`; `how` has options of a `Generator`. Closing the iterator of an answer cancels it."""

    extended = True  # it supports the fields that `serve` adds

    def __init__(self, path: Path, slots: int = 1, special_tokens: bool = False, **how: Any):
        model = load_model(path)
        self._model = replace(described_model(model, path), special_tokens=special_tokens)
        self.name, self.chat = self._model.name, self._model.chat is not None
        from ms_codegeex.generation.engine import Generator
        from ms_codegeex.generation.targets import MAX_SLOTS

        self._generator = Generator(model, slots=min(slots, MAX_SLOTS), **how)

    def complete(self, settings: SamplingSettings, request: Mapping[str, Any]) -> Iterator[AnswerPart]:
        """Continue the `prompt` of a request. The other fields are those of `/v1/completions`: `language`, `suffix`,
        `truncate_prompt`, `stop_at`."""
        prompt, language, suffix = request["prompt"], request.get("language"), request.get("suffix")
        cut, to_block = request.get("truncate_prompt"), request.get("stop_at") == "block"
        if to_block and not language:
            raise UserError("--stop-at: the prompt's language is unknown; name it with --language")
        rule = block(language, prompt) if to_block else None
        text = self._model.tagged(prompt, language)
        if suffix is None:
            ids = self._model.encode(text, room=settings.max_new_tokens if cut else None, remedy=TOO_LONG["prompt"])
            return self._answers(ids, settings, rule)
        room, remedy = (settings.max_new_tokens, "") if cut else (1, TOO_LONG["prompt"])
        ids, _, ends = infill_prompt(self._model, text, suffix, self._model.context - room, remedy)
        settings = replace(settings, stop=(*settings.stop, *ends))
        return self._answers(ids, settings, rule, suffix)

    def converse(self, settings: SamplingSettings, messages: Sequence[tuple[str, str]]) -> Iterator[AnswerPart]:
        """Answer the last of (role, content) messages. The model must have a format for `chat`."""
        template = self._model.chat
        assert template is not None
        settings = replace(settings, stop=(*settings.stop, *template.stop))
        said = [(role, self._model.tokenizer.said(content)) for role, content in messages]
        ids = self._model.encode(template.prompt(said), field="messages", remedy=TOO_LONG["messages"], special=True)
        return self._answers(ids, settings)

    def _answers(
        self, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None = None, suffix: str | None = None
    ) -> Iterator[AnswerPart]:
        seeds = range(settings.seed, settings.seed + settings.n)
        requests = [self._generator.request(ids, replace(settings, seed=seed, n=1)) for seed in seeds]
        try:
            for index, request in enumerate(requests):
                through = None if suffix is None else infill_filter(self._model, suffix)
                text = AnswerText(self._model.tokenizer, request.ids[: request.prompt], settings, rule, through)
                for chosen in request:
                    text.feed(chosen)
                    if text.finish is not None:
                        break
                    if text.waiting:
                        yield AnswerPart(index, text.take().text)
                request.cancel()
                text.end("stop" if request.finish == "eos" else request.finish)
                yield AnswerPart(index, text.take().text, text.finish)
        finally:
            for request in requests:
                request.cancel()
