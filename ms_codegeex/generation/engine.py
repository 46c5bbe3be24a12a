"""The `Generator`: a prompt goes in, tokens come out one by one. All requests share the slots of one engine
(`slots.py`, `scheduler.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ms_codegeex.base.errors import PromptTooLong, UserError
from ms_codegeex.base.host import available_cores
from ms_codegeex.generation.beams import Likeliest, next_tokens, search
from ms_codegeex.generation.choice import token_choice
from ms_codegeex.generation.constraints import Grammars
from ms_codegeex.generation.device_shares import check_devices
from ms_codegeex.generation.loading import Adapter, LoadedModel, adapter_description, load_adapters, load_model
from ms_codegeex.generation.rows import Network, SlotSizes, activation_bits
from ms_codegeex.generation.sampling import DEFAULT_ADAPTER, Answer, ChosenToken, SamplingSettings
from ms_codegeex.generation.scheduler import Request, Scheduler, Speculation
from ms_codegeex.generation.slots import SlotEngine
from ms_codegeex.generation.speculation import DraftSpeculation, NgramSpeculation
from ms_codegeex.generation.stopping import Ending, Rule, until
from ms_codegeex.generation.targets import (
    affordable_slots,
    check_memory,
    compiled_library,
    open_network,
    prepare_mindspore,
    use_device,
    warn_if_slower,
)
from ms_codegeex.kernels.levels import AUTO

FORBIDDEN = -1e6  # logit bias of tokens that answers must not contain


class Generator:
    """A model that continues prompts, loaded from a model directory (quantised or not), a run directory or a
    checkpoint. `slots` answers are computed at once; each slot takes up to `slot_bytes` of memory. The compiled
    operators run on `threads` threads (default: all cores); with 0, MindSpore's own operators are used. `speculate`
    ("ngram", or a smaller model with the same tokenizer) guesses tokens without changing the answers. For `exact`,
    `fast`, `cache_bits` and `cpu_level` see `rows.py`. Each of several `devices` is a process with its share of the
    weights and the cache. `bits` (8 or 4) rounds the matrices of a model that is not quantised while it is loaded.
    `adapters` maps the names used by `SamplingSettings.adapter` to LoRA adapters; the one named `DEFAULT_ADAPTER`
    serves requests that name none. `device` is a kind of device (`targets.py`), by default MindSpore's choice."""

    def __init__(
        self,
        model: Path | LoadedModel,
        seq_length: int | None = None,
        threads: int | None = None,
        *,
        slots: int | None = 1,
        speculate: str | Path | None = None,
        exact: bool = False,
        fast: bool = False,
        cache_bits: int = 32,
        bits: int | None = None,
        devices: int = 1,
        adapters: Mapping[str, Path] | None = None,
        device: str | None = None,
        cpu_level: str = AUTO,
    ):
        """If `slots` is None, there are as many as fit into half of the free memory, up to `MAX_SLOTS`. For a `model`
        that is loaded already, `bits` has no effect; pass it to `load_model`."""
        if device is not None:
            use_device(device, devices)
        threads = available_cores() if threads is None else threads
        if compiled_library(threads, cpu_level)[0] is None:
            prepare_mindspore()
        model = model if isinstance(model, LoadedModel) else load_model(Path(model), bits)
        self.path, self.config, self.tokenizer = model.path, model.config, model.tokenizer
        self.sentinels = model.sentinels
        self.seq_length = seq_length or self.config.max_position_embeddings
        self.slot_bytes = cache_bits // 8 * self.seq_length * self.config.cached_numbers  # keys and values
        weights = (model.weights.bits or 32) * self.config.parameter_count() // 8
        self.slots = slots or affordable_slots(self.slot_bytes, weights)
        # MindSpore's own operators hold quantised weights in FP32
        check_memory((4 * self.config.parameter_count() + self.slots * self.slot_bytes) // devices)
        sizes = SlotSizes(self.seq_length, self.slots, threads, activation_bits(exact, fast), cache_bits, cpu_level)
        self.speculation = None if speculate is None else self._speculation(speculate, sizes)
        loaded = load_adapters(adapters or {}, model)
        declared = [model.checked(adapter_description(each.path), each.path) for each in loaded]
        marks = (self.sentinels, *(each.infill for each in declared))
        self._marks = {number for each in marks if each is not None for number in each.ids}
        self.description = model.description
        for each, known in zip(loaded, declared, strict=True):
            if each.name == DEFAULT_ADAPTER:
                self.sentinels, self.description = known.infill or self.sentinels, known.over(model.description)
        self._adapters = {DEFAULT_ADAPTER: 0, **{each.name: number for number, each in enumerate(loaded, 1)}}
        self.engine = self._engine(model, sizes, getattr(self.speculation, "maximum", 0), devices, loaded)
        warn_if_slower(self.engine.network)
        self.scheduler = Scheduler(self.engine, self.speculation)
        self.grammars = Grammars(self.tokenizer, self.engine.allowed)

    def _engine(
        self, model: LoadedModel, sizes: SlotSizes, guesses: int = 0, devices: int = 1, adapters: Sequence[Adapter] = ()
    ) -> SlotEngine:
        check_devices(model.config, devices)
        if devices > 1:
            from ms_codegeex.generation.devices.network import Devices

            network: Network = Devices(model, sizes, devices, {each.name: each.path for each in adapters})
        else:
            network = open_network(model.family, model.config, model.weights, sizes, adapters=adapters)
        return SlotEngine(network, allowed=min(model.tokenizer.vocab_size, model.config.vocab_size), guesses=guesses)

    def _speculation(self, name: str | Path, sizes: SlotSizes) -> Speculation:
        if name == "ngram":
            return NgramSpeculation()
        draft = load_model(Path(name))
        if draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise UserError(
                f"--speculate: {draft.path} has another tokenizer than {self.path}; give a model with the same one"
            )
        capacity = min(self.seq_length, draft.config.max_position_embeddings)
        return DraftSpeculation(self._engine(draft, replace(sizes, capacity=capacity)))

    def encode(self, prompt: str, truncate_for: int | None = None, *, special: bool = False) -> list[int]:
        """Return the ids of a prompt. Its start is dropped if it leaves less room than an answer of `truncate_for`
        tokens needs. If `special`, names of special tokens are encoded as these tokens. Raises `UserError` for an empty
        prompt and `PromptTooLong` for one that leaves no room for an answer."""
        if not prompt:
            raise UserError("prompt: empty; give some text, for example '# language: Python'")
        ids = self.tokenizer.encode_prompt(prompt, special)
        if truncate_for is not None:
            ids = self.tokenizer.truncate_prompt(ids, self.seq_length - truncate_for)
        if len(ids) >= self.seq_length:
            context = f"the model's context is {self.seq_length}"
            raise PromptTooLong(
                f"prompt: {len(ids)} tokens, {context}; shorten the prompt, or drop its start with --cut-prompt"
            )
        return ids

    def _adapter(self, name: str) -> int:
        if name not in self._adapters:
            known = ", ".join(filter(None, self._adapters)) or "none"
            raise UserError(f"adapter: {name} is not loaded; known are {known}")
        return self._adapters[name]

    def logits(self, ids: Sequence[int], adapter: str = "") -> np.ndarray:
        """Return the logits that follow `ids`, FP32 [vocab_size]. Raises `UserError` for an id without a token."""
        ids, number = self._ids(ids), self._adapter(adapter)
        return self.scheduler.call(lambda slots: self.engine.logits(slots[0], ids, number), ids, adapter=number)

    def all_logits(self, ids: Sequence[int], adapter: str = "") -> np.ndarray:
        """Return the logits of the token after each of `ids`, FP32 [len(ids), vocab_size]. Raises as `logits` does."""
        ids, number = self._ids(ids), self._adapter(adapter)
        return self.scheduler.call(lambda slots: self.engine.all_logits(slots[0], ids, number))

    def log_probabilities(self, ids: Sequence[int], adapter: str = "") -> np.ndarray:
        """Return the natural log-probability of each of `ids` but the first, given those before it, FP32
        [len(ids) - 1]. The softmax includes embedding rows without a token, as in training. Raises as `logits` does."""
        ids, number = self._ids(ids), self._adapter(adapter)
        return self.scheduler.call(lambda slots: self.engine.log_probabilities(slots[0], ids, number))

    def _ids(self, ids: Iterable[int], bias: Iterable[int] = ()) -> list[int]:
        """Return `ids` as a list of ints. Raises `UserError` if their number is out of range or if an id, or one in
        `bias`, has no token: an operator would fail on it."""
        ids = [*ids]
        if not 0 < len(ids) <= self.seq_length:
            raise UserError(f"prompt: {len(ids)} tokens, the model takes 1 to {self.seq_length}")
        for each in ids:
            if not isinstance(each, int | np.integer) or not (0 <= each < self.engine.allowed or each in self._marks):
                shown = f"{' '.join(str(each).split()):.40}"
                raise UserError(f"prompt: {shown} is not a token's id; ids are 0 to {self.engine.allowed - 1}")
        if wrong := [number for number in bias if number >= self.engine.allowed]:
            raise UserError(f"logit_bias: {wrong[0]} is not a token's id; ids are 0 to {self.engine.allowed - 1}")
        return [*map(int, ids)]

    def warm_up(self) -> None:
        """Let MindSpore compile the passes of the model, and of a draft model, with the usual settings before the first
        request. The small graphs for penalties, biases or log-probabilities are compiled when first needed. The
        compiled operators need no warm-up."""
        # greedy and sampled choices have separate graphs
        usual = [self._without_marks(SamplingSettings(temperature=each)) for each in (0.0, 1.0)]
        choices = [token_choice(each, [], []) for each in usual]
        self.engine.warm_up(choices)
        if isinstance(self.speculation, DraftSpeculation):
            self.speculation.engine.warm_up(choices)

    def request(self, ids: Sequence[int], settings: SamplingSettings) -> Request:
        """Start an answer. Iterate over the returned request for its tokens, or cancel it. Thread-safe. Raises
        `UserError` if an id in `ids` or in the logit bias has no token, or if the settings cannot be used."""
        request = self.submit(ids, settings)
        self.scheduler.start()
        return request

    def submit(
        self,
        ids: Sequence[int],
        settings: SamplingSettings,
        prompt_best: int | None = None,
        group: str = "",
        weight: int = 1,
    ) -> Request:
        """As `request`, but the caller runs the scheduler's steps. For the other parameters see `Request`."""
        ids, settings = self._ids(ids, settings.logit_bias), self._without_marks(settings)
        adapter = self._adapter(settings.adapter)
        request = Request(ids, settings, self.seq_length, self.tokenizer.eos_id, prompt_best, adapter, group, weight)
        request.constraint = self.grammars.constraint(settings)
        self.scheduler.submit(request)
        return request

    def tokens(self, ids: Sequence[int], settings: SamplingSettings) -> Iterator[int]:
        """Return an iterator over new ids up to eos (excluded), `max_new_tokens` or the end of the context. Raises as
        `request` does."""
        ids = self._ids(ids, settings.logit_bias)

        def found() -> Iterator[int]:
            request = self.request(ids, settings)
            try:
                yield from (chosen.token for chosen in request)
            finally:
                request.cancel()

        return found()

    def _without_marks(self, settings: SamplingSettings) -> SamplingSettings:
        forbidden = {number: FORBIDDEN for number in sorted(self._marks) if number < self.engine.allowed}
        return replace(settings, logit_bias={**forbidden, **settings.logit_bias}) if forbidden else settings

    def speculated(self) -> dict[str, int]:
        """Return the numbers of guessed and accepted tokens, or an empty dict without speculation."""
        if self.speculation is None:
            return {}
        return {"guessed": self.scheduler.guessed, "accepted": self.scheduler.accepted}

    @contextmanager
    def likeliest(self, ids: Sequence[int], beams: int, count: int, adapter: str = "") -> Iterator[Likeliest]:
        """Reserve up to `beams` slots for a beam search after `ids`; other requests use the remaining ones. The yielded
        function returns the `count` likeliest tokens after each given partial answer. Raises as `logits` does."""
        ids, number = self._ids(ids), self._adapter(adapter)
        with self.scheduler.holding(ids, beams, number) as step:

            def likeliest(begun: Sequence[tuple[int, ...]]) -> list[Sequence[tuple[int, float]]]:
                sequences = [self._ids([*ids, *answer]) for answer in begun]
                return step(lambda slots: next_tokens(self.engine, slots, sequences, count, number))

            yield likeliest

    def answers(self, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None = None) -> list[Answer]:
        """Return `settings.n` complete answers to a prompt, ended by `rule` too. Raises as `request` does."""
        ids = self._ids(ids, settings.logit_bias)
        if settings.beams > 1:
            return self._beams(ids, settings, rule)
        requests = [self.request(ids, replace(settings, seed=settings.seed + number)) for number in range(settings.n)]
        # slots go to requests in order: with this many readers, a stop text ends each running answer at once
        with ThreadPoolExecutor(min(len(requests), self.slots + 1)) as pool:
            try:
                return list(pool.map(lambda request: self._answer(request, rule), requests))
            finally:
                for request in requests:
                    request.cancel()

    def _answer(self, request: Request, rule: Rule | None) -> Answer:
        chosen: list[ChosenToken] = []

        def tokens() -> Iterator[int]:
            for one in request:
                chosen.append(one)
                yield one.token

        text, ended = self._text(request.ids[: request.prompt], tokens(), request.settings, rule)
        request.cancel()
        return Answer(text, chosen, "stop" if ended else request.finish)

    def _beams(self, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None) -> list[Answer]:
        room = min(settings.max_new_tokens, self.seq_length - len(ids))
        count = max(2 * settings.beams, settings.log_probabilities)
        eos, answers = self.tokenizer.eos_id, []
        with self.likeliest(ids, settings.beams, count, settings.adapter) as likeliest:
            done = search(likeliest, settings.beams, room, eos, settings.length_penalty, settings.log_probabilities)
        for beam in done[: settings.n]:
            tokens = [one for one in beam.tokens if one.token != eos]
            text, ended = self._text(ids, [one.token for one in tokens], settings, rule)
            answers.append(Answer(text, tokens, "stop" if ended else beam.finish, beam.score))
        return answers

    def _text(
        self, ids: Sequence[int], answer: Iterable[int], settings: SamplingSettings, rule: Rule | None
    ) -> tuple[str, bool]:
        ending = Ending(settings.stop, rule)
        return "".join(until(self.tokenizer.continuation(ids, answer), ending)), ending.ended

    def stream(self, ids: Sequence[int], settings: SamplingSettings, rule: Rule | None = None) -> Iterator[str]:
        ids = self._ids(ids, settings.logit_bias)
        return until(self.tokenizer.continuation(ids, self.tokens(ids, settings)), Ending(settings.stop, rule))

    def generate(self, prompt: str, settings: SamplingSettings) -> str:
        return "".join(self.stream(self.encode(prompt), settings))
