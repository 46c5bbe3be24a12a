"""Continuous batching: requests from any thread share the slots of an engine, which runs in one thread. Each step is
one pass with the next token of every decoding sequence (or several guessed ones) and rows of prompts, the shortest
remainder first. Groups of requests take turns at the slots (`shares.py`); within a group, requests are served in order
of arrival. A request may have to yield its slot to another group and resume later. A slot keeps the ids of its last
sequence, and a prefix that any slot holds is not recomputed. The ids of an answer do not depend on other requests. Work
of many steps, such as a beam search, may hold slots; its steps run between those of the requests."""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import numpy as np

from ms_codegeex.base.errors import NetworkLost, RunFailure, UserError
from ms_codegeex.generation.choice import TokenChoice, check_finite, token_choice
from ms_codegeex.generation.constraints import Constraint
from ms_codegeex.generation.prefixes import MIN_COPIED, Prefixes
from ms_codegeex.generation.sampling import ChosenToken, SamplingSettings
from ms_codegeex.generation.shares import CROWD, SMALL, Shares
from ms_codegeex.generation.slots import MIN_PROMPT_ROWS, Part, SlotEngine, power, shared

Work = Callable[[list[int]], Any]  # called with the slots that it may use
FIRST_GUESSES = 3  # guessed tokens in a request's first guess
MIXED_ROWS = 64  # usual limit for a pass in which sequences decode, so that prompts do not delay them for long
PATIENCE = 8  # passes in which shorter prompts may overtake a longer one


class Request:
    """A prompt and its answer. Iterating over a request yields the new tokens; cancel one whose answer nobody reads.
    `finish` says why it ended: "eos" (which is not yielded), "stop", "length", "cancelled" or "error"."""

    count = 1  # slots needed

    def __init__(
        self,
        ids: Sequence[int],
        settings: SamplingSettings,
        limit: int,
        eos: int | None = None,
        prompt_best: int | None = None,
        adapter: int = 0,
        group: str = "",
        weight: int = 1,
    ):
        """`limit` bounds the ids of prompt and answer together. With `prompt_best`, the prompt's ids are scored too
        and appended to `scored`, each with that many likeliest tokens. `adapter` is the number of the adapter that
        computes the answer, 0 for none. The requests of a `group` share the slots and rows to which its `weight`
        entitles it. These attributes may be set before the first step: `ends` takes each new token and returns whether
        the text ends with it; the prompt's last hidden states are added to `states`, float64 [H]; `constraint`
        restricts the answer to a grammar."""
        self.ids, self.settings, self.eos, self.adapter = list(ids), settings, eos, adapter
        self.group, self.weight = group, weight
        self.ends: Callable[[int], bool] | None = None
        self.states: np.ndarray | None = None
        self.constraint: Constraint | None = None
        self.passed_over = 0  # consecutive passes in which another prompt came first
        self.computed = self.in_slot = 0  # rows computed: in total, and since it got its present slot
        self.prompt = len(self.ids)
        self.limit = min(limit, self.prompt + settings.max_new_tokens)
        self.slot = -1
        self.leader: Request | None = None  # an earlier request that is computing a prefix common to both
        self.finish, self.cancelled = "", False
        self.guessed = self.accepted = 0
        self.width = FIRST_GUESSES
        self.error: BaseException | None = None
        self.ended = False  # whether `new` has returned the last token
        self.prompt_best = prompt_best
        self.scored: list[ChosenToken] = []  # the prompt's ids except the first
        self._tokens: queue.SimpleQueue[ChosenToken | None] = queue.SimpleQueue()
        self.withdraw: Callable[[Request], bool] | None = None  # set by the scheduler

    def cancel(self) -> None:
        """Stop the answer after the current step. A request that still waits for a slot ends at once."""
        self.cancelled = True
        if self.withdraw is not None and self.withdraw(self):
            self.end("cancelled")

    @property
    def begun(self) -> bool:
        return len(self.ids) > self.prompt

    @property
    def computes_all(self) -> bool:
        return self.prompt_best is not None or self.states is not None

    def __iter__(self) -> Iterator[ChosenToken]:
        while (token := self._tokens.get()) is not None:
            yield token
        if self.error is not None:
            raise self.error

    def new(self) -> list[ChosenToken]:
        """Return the tokens since the last call; set `ended` after the last one. For callers that run the steps."""
        tokens = []
        while not self._tokens.empty():
            if (token := self._tokens.get()) is None:
                self.ended = True
            else:
                tokens.append(token)
        return tokens

    def choice(self, guess: Sequence[int] = ()) -> TokenChoice:
        """Return the choice of the next token, or of the one after a `guess`."""
        output = self.ids[self.prompt :]
        choice = token_choice(self.settings, self.ids[: self.prompt], [*output, *guess])
        return choice if self.constraint is None else self.constraint.applied(choice, output, guess)

    def prompt_choices(self, begin: int, end: int) -> list[TokenChoice]:
        """Return the choices for a pass that computes ids `begin` to `end`: one for each id if the prompt is scored,
        and one for the next token if no id follows."""
        last = [self.choice()] if end == len(self.ids) else []
        if self.prompt_best is None:
            return last
        given = self.ids[begin + 1 : end + 1]
        return [*(TokenChoice(given=number, best=self.prompt_best) for number in given), *last]

    def take(self, chosen: ChosenToken) -> None:
        """Take the next token. Raises `RunFailure` for logits that are not finite, `UserError` if the grammar fails."""
        check_finite(chosen.score)
        if self.constraint is not None and self.constraint.error:
            raise UserError(self.constraint.error)
        if chosen.token == self.eos:
            self.finish = "eos"
            return
        self.ids.append(chosen.token)
        self._tokens.put(chosen)
        formed = self.constraint is not None and self.constraint.ends(self.ids[self.prompt :])
        if formed or (self.ends is not None and self.ends(chosen.token)):
            self.finish = "stop"
        elif len(self.ids) >= self.limit:
            self.finish = "length"

    def take_scored(self, tokens: Sequence[ChosenToken]) -> None:
        """Append the next ids of the prompt to `scored`. Raises `RunFailure` if their logits are not finite."""
        for chosen in tokens:
            check_finite(chosen.score)
        self.scored += tokens

    def end(self, finish: str, error: BaseException | None = None) -> None:
        self.finish, self.error = finish, error
        self._tokens.put(None)


class Call:
    """Other work for an engine, which needs `count` slots. The first of them is chosen as for a request with the prompt
    `ids` and the adapter number `adapter`."""

    group = None
    slot = -1  # `work` gets its slots as an argument

    def __init__(self, work: Work, ids: Sequence[int] = (), count: int = 1, adapter: int = 0):
        self.work, self.ids, self.count, self.adapter = work, list(ids), count, adapter
        self.result: Future[Any] = Future()

    def end(self, finish: str, error: BaseException | None = None) -> None:
        self.result.set_exception(error or RunFailure(f"generation: {finish}"))


class Speculation(ABC):
    """Guesses up to `maximum` next tokens per request: more after a correct guess, fewer after a wrong one."""

    def __init__(self, maximum: int):
        self.maximum = maximum

    @abstractmethod
    def guess(self, requests: Sequence[Request], room: Sequence[int]) -> list[list[int]]:
        """Return guesses of the next ids of each request, at most as many as its entry in `room`."""

    def learn(self, request: Request, guessed: int, accepted: int) -> None:
        """Adapt the length of the request's next guess: `accepted` of its `guessed` tokens were right."""
        if accepted == guessed:
            request.width = min(2 * guessed + 1, self.maximum)
        elif 2 * accepted < guessed:
            request.width = max(guessed // 2, 1)


class Scheduler:
    """Runs requests in the slots of `engine`. `submit` and `Request.cancel` are thread-safe. Contents that slots lose
    are kept in `prefixes`."""

    def __init__(self, engine: SlotEngine, speculation: Speculation | None = None, prefixes: Prefixes | None = None):
        self.engine, self.speculation, self.prefixes = engine, speculation, prefixes
        self.mixed_rows = MIXED_ROWS  # a smaller value delays answers less, but prompts take longer
        self.guessed = self.accepted = 0  # tokens
        self.reused = 0  # prompt tokens found in a slot or a prefix
        self.passes = 0
        self.suspended = 0  # how many times a request had to yield its slot
        self._lock, self._running = threading.Lock(), False
        self._changed = threading.Condition(self._lock)  # signals new work or freed slots
        self._waiting: deque[Request | Call] = deque()
        self._held: set[int] = set()  # slots held by `holding`
        self._steps: list[tuple[Call, list[int]]] = []  # pending steps of `holding`, with their slots
        self._active: dict[int, Request] = {}  # by slot, in order of admission
        self._used, self._clock = [0] * engine.slots, 0  # logical time at which each slot became free
        self._shares, self._hurried = Shares(), 0  # number of the last pass shortened by `_hurry`
        self._groups = [""] * engine.slots  # the group for which each slot's contents were computed

    def submit(self, work: Request | Call) -> None:
        """Queue a request or call. The caller must then call `start` once, or `step` repeatedly."""
        if isinstance(work, Request):
            work.withdraw = self._withdraw
        with self._changed:
            if isinstance(work, Request):
                self._shares.enter(work.group, self._present(), work.weight)
            self._waiting.append(work)
            self._changed.notify()

    def _present(self) -> set[str]:
        return {work.group for work in (*self._active.values(), *self._waiting) if isinstance(work, Request)}

    def _withdraw(self, request: Request) -> bool:
        with self._lock:
            if request not in self._waiting:
                return False
            self._waiting.remove(request)
            return True

    def call(self, work: Work, ids: Sequence[int] = (), count: int = 1, adapter: int = 0) -> Any:
        """Run `work(slots)` between two steps and return its result. It may use the engine and these slots. For
        `count`, `ids` and `adapter` see `Call`."""
        call = Call(work, ids, min(count, self.engine.slots), adapter)
        self.submit(call)
        self.start()
        return call.result.result()

    @contextmanager
    def holding(self, ids: Sequence[int], count: int, adapter: int = 0) -> Iterator[Callable[[Work], Any]]:
        """Hold `count` slots, or all if there are fewer, for work of many steps; it waits for them only once. The
        yielded function runs `work(slots)` between two steps of other requests and returns its result."""
        slots = self.call(self._hold, ids, count, adapter)

        def step(work: Work) -> Any:
            call = Call(work)
            with self._changed:
                self._steps.append((call, slots))
                self._changed.notify()
            self.start()
            return call.result.result()

        try:
            yield step
        finally:
            with self._changed:
                self._held.difference_update(slots)
                self._changed.notify()

    def _hold(self, slots: list[int]) -> list[int]:
        self._held.update(slots)
        return slots

    def start(self) -> None:
        """Start the scheduler's thread unless it runs. It ends when no work is left, or soon after the main thread."""
        with self._lock:
            if not self._running:
                self._running = True
                # explicitly no daemon (a daemonic caller's default): the interpreter must not exit while MindSpore runs
                threading.Thread(target=self._work, name="generation", daemon=False).start()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._active and not self._steps:
                    self._running = False
                    return
                if not self._active and not self._steps and len(self._free()) < self._waiting[0].count:
                    self._changed.wait(1)  # until held slots are released
            try:
                if not threading.main_thread().is_alive():
                    raise RunFailure("generation: the program ends")
                self.step()
            except BaseException as error:  # ends every request; their threads raise it
                with self._lock:
                    left = [*self._active.values(), *self._waiting, *(call for call, _ in self._steps)]
                    self._active.clear()
                    self._waiting.clear()
                    self._steps.clear()
                for each in left:
                    each.end("error", error)

    def step(self) -> None:
        """Admit waiting work, compute one pass and deliver its tokens."""
        for request in list(self._active.values()):
            if request.cancelled:
                self._end(request, "cancelled")
        with self._lock:
            steps, self._steps = self._steps, []
        for call, slots in steps:
            with self._failing_alone(call):
                call.result.set_result(call.work(slots))
        self._admit()
        requests = self._hurry()
        planned = self._decoding(requests)
        self._add_prompts(planned, requests)
        self.passes += bool(planned)
        rows = Counter[str]()
        for part, request in planned:
            request.computed, request.in_slot = request.computed + len(part.ids), request.in_slot + len(part.ids)
            rows[request.group] += len(part.ids)
        with self._lock:
            self._shares.note(rows, self._present())
        results = self.engine.advance([part for part, _ in planned]) if planned else []
        for (part, request), chosen in zip(planned, results, strict=True):
            if chosen:
                with self._failing_alone(request):  # other requests' logits may still be finite
                    self._deliver(request, part, chosen)

    def _left(self, request: Request) -> int:
        return len(request.ids) - len(self.engine.cached[request.slot])

    def _hurry(self) -> list[Request]:
        """Return the requests of the next pass, usually all. With n > 1 groups, at most every n-th pass is a short one
        for the favoured group: it has only those of its requests whose answers have not begun, if the rest of their
        prompts fits into `SMALL` rows."""
        requests, hurried = list(self._active.values()), list[Request]()
        groups = {request.group for request in requests}
        if len(groups) > 1 and self.passes - self._hurried >= len(groups):
            group = self._shares.favoured(groups)
            new = [each for each in requests if (each.group, each.leader) == (group, None) and not each.begun]
            hurried = new if sum(map(self._left, new)) <= SMALL else []
        if hurried:
            self._hurried = self.passes
        return hurried or requests

    def _decoding(self, requests: Sequence[Request]) -> list[tuple[Part, Request]]:
        ready = [request for request in requests if request.leader is None and self._left(request) == 1]
        guesses: list[list[int]] = [[] for _ in ready]
        if self.speculation is not None and ready:
            room = [min(self.speculation.maximum, each.limit - len(each.ids) - 1) for each in ready]
            guesses = self.speculation.guess(ready, room)
        planned = []
        for request, guess in zip(ready, guesses, strict=True):
            choices = [request.choice(guess[:count]) for count in range(len(guess) + 1)]
            newest = [request.ids[-1], *guess]  # for a new request, the last id of its prompt
            planned.append((Part(request.slot, len(request.ids) - 1, newest, choices, request.states), request))
        return planned

    def _add_prompts(self, planned: list[tuple[Part, Request]], requests: Sequence[Request]) -> None:
        used, room = sum(len(part.ids) for part, _ in planned), self.engine.chunk
        if planned:
            # with several groups, prompts get only half of the rows
            mixed = used + self.mixed_rows // 2 if self._shares.several else self.mixed_rows
            room = min(room, max(mixed, power(used + min(MIN_PROMPT_ROWS, self.mixed_rows // 2))))
        room -= used
        prompts = self._prompts(requests, {part.slot for part, _ in planned})
        begun = [request.group for _, request in planned if not request.begun]
        counts = self._shares.divided([(request.group, self._left(request)) for request in prompts], room, begun)
        for request, count in zip(prompts, self._shortened(prompts, counts), strict=True):
            request.passed_over = 0 if count and request is prompts[0] else request.passed_over + 1
            if count:
                begin = len(self.engine.cached[request.slot])
                ids = request.ids[begin : begin + count]
                choices = request.prompt_choices(begin, begin + len(ids))
                planned.append((Part(request.slot, begin, ids, choices, request.states), request))

    def _shortened(self, prompts: Sequence[Request], counts: list[int]) -> list[int]:
        """Limit the rows of prompts from groups that crowd out a typing group, whose next request would have to wait
        for the end of the pass. Only done where fewer rows make a pass faster."""
        crowds, few, found = self._crowds() if self.engine.rows_cost else set(), CROWD, []
        for request, count in zip(prompts, counts, strict=True):
            if request.group in crowds:
                count = min(count, few)
                few -= count
            found.append(count)
        return found

    def _crowds(self) -> set[str]:
        groups = Counter(request.group for request in self._active.values())
        typist = self._shares.typist(groups)
        return set() if typist is None else {each for each in groups if groups[each] > 1 and each != typist}

    def _prompts(self, requests: Sequence[Request], decoding: Container[int]) -> list[Request]:
        """Return the requests whose prompts can be computed, the shortest remainder first. To prevent starvation, those
        that were passed over `PATIENCE` times precede the others, the longest waiting first."""
        found = []
        for request in requests:
            if request.leader is not None:
                with self._failing_alone(request):
                    self._reuse(request)
            if request.leader is None and request.slot not in decoding and not request.finish:
                found.append(request)
        late = [request for request in found if request.passed_over >= PATIENCE]
        late.sort(key=lambda each: -each.passed_over)
        return late + sorted((each for each in found if each.passed_over < PATIENCE), key=self._left)

    def _deliver(self, request: Request, part: Part, tokens: Sequence[ChosenToken]) -> None:
        if request.prompt_best is not None and (left := request.prompt - 1 - len(request.scored)):
            request.take_scored(tokens[:left])
            if not (tokens := tokens[left:]):
                return
        guess = part.ids[len(part.ids) - len(tokens) + 1 :]
        accepted = 0 if request.cancelled else self._take(request, tokens, guess)
        if guess and self.speculation is not None and not request.cancelled:
            self.guessed, self.accepted = self.guessed + len(guess), self.accepted + accepted
            request.guessed, request.accepted = request.guessed + len(guess), request.accepted + accepted
            self.speculation.learn(request, len(guess), accepted)
        del self.engine.cached[request.slot][len(request.ids) - 1 :]
        if request.cancelled or request.finish:
            self._end(request, request.finish or "cancelled")

    @staticmethod
    def _take(request: Request, tokens: Sequence[ChosenToken], guess: Sequence[int]) -> int:
        request.take(tokens[0])
        for accepted, (token, guessed) in enumerate(zip(tokens[1:], guess, strict=True)):
            if request.finish or request.ids[-1] != guessed:
                return accepted
            request.take(token)
        return len(guess)

    def _end(self, request: Request, finish: str) -> None:
        self._leave(request.slot)
        request.end(finish)

    def _leave(self, slot: int) -> None:
        self._clock += 1
        self._used[slot] = self._clock
        self._active.pop(slot, None)

    def _next(self) -> Request | Call | None:
        requests = list(takewhile(lambda work: isinstance(work, Request), self._waiting))
        if not requests:
            ready = self._waiting and len(self._free()) >= self._waiting[0].count
            return self._waiting.popleft() if ready else None
        waiting, active = dict.fromkeys(request.group for request in requests), list(self._active.values())
        present, due = {*waiting, *(request.group for request in active)}, Counter[str]()
        for request in active:
            due[request.group] += self._left(request) - 1
        if len(self._free()) > self._shares.left_free(present, self.engine.slots):
            group = self._shares.next(waiting, {request.group for request in active}, due)
        else:
            able = [request for request in active if request.prompt_best is None] if len(present) > 1 else []
            # no time slices without the prefix cache: a suspended request would be recomputed from the start
            exchanged = self._shares.exchange(able, waiting, due, slices=self.prefixes is not None)
            if exchanged is None:
                return None
            given, group = exchanged
            self._suspend(given)
        found = next(request for request in requests if request.group == group)
        self._waiting.remove(found)
        return found

    def _suspend(self, request: Request) -> None:
        self._leave(request.slot)
        request.slot, request.leader, request.in_slot, request.passed_over = -1, None, 0, 0
        if request.states is not None:
            request.states[:] = 0
        self.suspended += 1
        self._waiting.appendleft(request)

    def _admit(self) -> None:
        while True:
            with self._lock:
                work = self._next()
            if work is None:
                return
            with self._failing_alone(work):
                if isinstance(work, Call):
                    first = self._place(work)
                    slots = [first, *(slot for slot in self._free() if slot != first)][: work.count]
                    for slot in slots:
                        self._leave(slot)
                    work.result.set_result(work.work(slots))
                elif work.cancelled:  # cancelled just before it was queued
                    work.end("cancelled")
                elif work.prompt >= work.limit:
                    work.end("length")
                else:
                    work.slot = self._place(work)
                    self._active[work.slot] = work
                    self._keep_loss(work)
                    self._reuse(work)

    @contextmanager
    def _failing_alone(self, work: Request | Call) -> Iterator[None]:
        """Let an error end only this request or call, whose caller gets it. `NetworkLost` is raised again."""
        try:
            yield
        except BaseException as error:
            if work.slot >= 0:
                self.engine.cached[work.slot].clear()
                self._leave(work.slot)
            work.end("error", error)
            if isinstance(error, NetworkLost):
                raise

    def _free(self, group: str | None = None) -> list[int]:
        taken = {*self._active, *self._held}
        slots = (slot for slot in range(self.engine.slots) if slot not in taken)
        others = {each for each in self._groups if group not in (None, each) and self._shares.owns(each)}
        return sorted(slots, key=lambda slot: (self._groups[slot] in others, self._used[slot]))

    def _place(self, work: Request | Call) -> int:
        """Return the free slot with the longest common prefix with the new ids. Choose the least recently used slot
        instead if a longer prefix can be copied from elsewhere, or if the slot would lose more ids than it keeps (its
        prefix can be copied as well)."""
        ids, free = work.ids[:-1], self._free(work.group)
        begins = [self.engine.common(slot, ids, work.adapter) for slot in range(self.engine.slots)]
        best = max(free, key=lambda slot: begins[slot])
        lossy = 2 * begins[best] < len(self.engine.cached[best])
        copied = max(begins) > begins[best] or self._kept(ids, work.adapter)[1] >= begins[best] + MIN_COPIED
        return free[0] if copied or lossy else best

    def _kept(self, ids: Sequence[int], adapter: int) -> tuple[int, int]:
        return (-1, 0) if self.prefixes is None else self.prefixes.longest(ids, adapter)

    def _keep_loss(self, request: Request) -> None:
        own = request.group == self._groups[request.slot] and request.group in self._crowds()
        if self.prefixes is not None and not own:
            left = 0 if request.computes_all else self.engine.common(request.slot, request.ids[:-1], request.adapter)
            if 2 * left < len(self.engine.cached[request.slot]):
                self.prefixes.keep(request.slot, self._groups[request.slot])
        self._groups[request.slot] = request.group

    def _reuse(self, request: Request) -> None:
        if request.computes_all:
            self.engine.clear(request.slot, request.adapter)
            return
        cached, ids, adapter = self.engine.cached, request.ids[:-1], request.adapter
        own = self.engine.keep(request.slot, request.ids, adapter)
        others = (slot for slot in range(self.engine.slots) if slot != request.slot)
        begins = {slot: self.engine.common(slot, ids, adapter) for slot in others}
        source = max(begins, key=begins.__getitem__, default=request.slot)
        maximum = max(own, begins.get(source, 0))
        number, kept = self._kept(ids, adapter)
        restored = kept >= maximum + MIN_COPIED
        maximum = kept if restored else maximum
        request.leader = None
        for earlier in self._active.values():
            if earlier is request:
                break
            if earlier.adapter != adapter:
                continue
            if len(cached[earlier.slot]) < (length := shared(earlier.ids[: earlier.prompt], ids)) > maximum:
                request.leader, maximum = earlier, length
        if request.leader is None:
            self.reused += maximum
            if restored and self.prefixes is not None:
                self.prefixes.restore(number, request.slot, maximum)
            elif maximum > own:
                self.engine.copy(source, request.slot, maximum)
