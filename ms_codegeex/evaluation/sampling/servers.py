"""Several servers with the same model: each request goes to the one with the fewest requests in progress."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.printing import print_error
from ms_codegeex.evaluation.sampling import samplers
from ms_codegeex.evaluation.sampling.samplers import SERVER_FAILURES, Sampler, ServerSampler
from ms_codegeex.evaluation.task import SampledAnswer, Stop

ServerFailure = samplers.UnreachableServer | samplers.FailedServer


def open_servers(urls: Sequence[str], make: Callable[[str], ServerSampler]) -> Sampler:
    """A sampler for one server, or for several of the same model. `make` opens one. `UserError`: an address occurs
    twice, no server can be reached, or they have different models."""
    if len(urls) == 1:
        return make(urls[0])
    if len(set(urls)) < len(urls):
        raise UserError(f"--url: {next(url for url in urls if urls.count(url) > 1)} occurs twice; give each once")
    servers, failures = [], dict[str, ServerFailure]()
    for url in urls:
        try:
            servers.append(make(url))
        except SERVER_FAILURES as error:
            failures[url] = error
    if not servers:
        raise failures[urls[-1]]
    for url, failure in failures.items():
        _warn(url, failure)
    names = {server.model for server in servers}
    if len(names) > 1:
        raise UserError(f"--url: the servers have different models ({', '.join(sorted(names))}); see --url-model")
    return ManyServers(servers)


class ManyServers:
    """At most `concurrency` requests to each server are in progress at a time. A server that fails gets no more, and
    the others take over its requests; if none is left, the last one's error is raised."""

    def __init__(self, servers: Sequence[ServerSampler]):
        self._under_way = dict.fromkeys(range(len(servers)), 0)  # of the servers that work
        self._servers, self._changed = servers, threading.Condition()
        self._failure: ServerFailure | None = None
        self.concurrency = sum(server.concurrency for server in servers)
        urls = ", ".join(str(server.url) for server in servers)
        self.identity: Mapping[str, Any] = {**servers[0].identity, "url": urls}

    def __call__(
        self, prompt: str, *, seed: int, stop: Stop | None = None, max_new_tokens: int | None = None
    ) -> SampledAnswer:
        """Continue a prompt on one of the servers; `PromptTooLong` if it says so."""
        while True:
            number = self._take()
            try:
                return self._servers[number](prompt, seed=seed, stop=stop, max_new_tokens=max_new_tokens)
            except SERVER_FAILURES as error:
                self._lose(number, error)
            finally:
                self._give_back(number)

    def _take(self) -> int:
        """The number of a server that has room, once there is one. If all are lost, the last one's error."""

        def free() -> list[int]:
            return [number for number, busy in self._under_way.items() if busy < self._servers[number].concurrency]

        with self._changed:
            self._changed.wait_for(lambda: free() or not self._under_way)
            if not self._under_way:
                assert self._failure is not None
                raise self._failure
            number = min(free(), key=self._under_way.__getitem__)
            self._under_way[number] += 1
            return number

    def _give_back(self, number: int) -> None:
        with self._changed:
            if number in self._under_way:
                self._under_way[number] -= 1
            self._changed.notify()

    def _lose(self, number: int, error: ServerFailure) -> None:
        """Remove a server, and report this unless it was the last one, whose error ends the evaluation."""
        with self._changed:
            if self._under_way.pop(number, None) is None:
                return
            self._failure, left = error, bool(self._under_way)
            self._changed.notify_all()
        if left:
            _warn(self._servers[number].url, error)


def _warn(url: str, error: ServerFailure) -> None:
    print_error(f"warning: {error.reason}; the other servers do the work of {url}")
