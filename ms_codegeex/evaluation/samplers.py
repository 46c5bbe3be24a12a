"""Where samples come from: our own engine, or a server with OpenAI's completions API.

Both are a `task.Complete`: the same prompt, settings and seed give the same text (of a server, one has to believe it).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ms_codegeex.errors import PromptTooLong, RunFailure, UserError
from ms_codegeex.evaluation.recipes import Recipe
from ms_codegeex.evaluation.task import Completion, Stop
from ms_codegeex.files import sha256

RETRIES = 6  # of a request; the client waits 0.5 s, 1 s, 2 s, up to 8 s in between
TOO_LONG = ("context length", "context size", "too long", "maximum context", "exceeds")  # in servers' refusals


class Sampler(Protocol):
    """A `Complete` that says who it is and how many calls it takes at once."""

    identity: Mapping[str, Any]
    concurrency: int

    def __call__(
        self, prompt: str, *, seed: int, stop: Stop | None = None, max_new_tokens: int | None = None
    ) -> Completion:
        """See `task.Complete`."""


def ended_by(recipe: Recipe, stop: Stop | None) -> Stop:
    """The task's rule or one of the recipe's texts, whichever comes first."""
    return lambda text: any(word in text for word in recipe.stops) or (stop is not None and stop(text))


def cut(text: str, recipe: Recipe) -> str:
    """Text up to the first of the recipe's stops, which servers leave out too."""
    return text[: min((place for word in recipe.stops if (place := text.find(word)) >= 0), default=len(text))]


def model_identity(path: Path) -> dict[str, Any]:
    """What a model is, wherever it lies: the hash of a checkpoint's manifest, or of all files of a model directory."""
    if path.is_file():
        return {"path": str(path), "sha256": sha256(path)}
    if (path / "manifest.json").is_file():  # has the hash of every tensor
        return {"path": str(path), "sha256": sha256(path / "manifest.json")}
    digest = hashlib.sha256()
    for file in sorted(file for file in path.iterdir() if file.is_file()):
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return {"path": str(path), "sha256": digest.hexdigest()}


class EngineSampler:
    """Our decoding engine. One text at a time; samples of one prompt share its keys and values."""

    concurrency = 1

    def __init__(self, path: Path, recipe: Recipe):
        from ms_codegeex.generation.engine import Generator  # the engine, which takes seconds to import

        self.generator, self.recipe = Generator(path), recipe
        self.identity = model_identity(self.generator.path)
        self.limit = min(self.generator.seq_length, recipe.max_length or self.generator.seq_length)

    def __call__(
        self, prompt: str, *, seed: int, stop: Stop | None = None, max_new_tokens: int | None = None
    ) -> Completion:
        """Continue a prompt; `PromptTooLong` if it leaves no room."""
        from ms_codegeex.generation.sampling import SamplingSettings

        ids = self.generator.tokenizer.encode_prompt(prompt)
        room = min(max_new_tokens or self.recipe.max_new_tokens, self.limit - len(ids))
        if room < 1:
            raise PromptTooLong(f"prompt: {len(ids)} tokens, the model and the recipe allow {self.limit} in all")
        recipe, ended, new = self.recipe, ended_by(self.recipe, stop), 0
        settings = SamplingSettings(room, recipe.temperature, recipe.top_k, recipe.top_p, seed)

        def counted() -> Iterator[int]:
            nonlocal new
            for token in self.generator.tokens(ids, settings):
                new += 1
                yield token

        text = ""
        for piece in self.generator.tokenizer.continuation(ids, counted()):
            text += piece
            if ended(text):
                return Completion(cut(text, recipe), "stop")
        return Completion(text, "length" if new >= room else "eos")


class ServerSampler:
    """A server's `/v1/completions`, read as it streams, so that an answer that is over costs no more tokens."""

    def __init__(
        self,
        url: str,
        recipe: Recipe,
        model: str | None = None,
        key: str | None = None,
        fields: Mapping[str, Any] | None = None,
        concurrency: int = 4,
        timeout: float = 600.0,
    ):
        import openai

        self.url, self.recipe, self.concurrency = url.rstrip("/").removesuffix("/completions"), recipe, concurrency
        if not self.url.startswith(("http://", "https://")):
            raise UserError(f"--url: {url} is no address of a server; expected http(s)://HOST[:PORT]/v1")
        self.client = openai.OpenAI(base_url=self.url, api_key=key or "none", max_retries=RETRIES, timeout=timeout)
        self.fields = dict(fields or {})
        if recipe.top_k:
            self.fields.setdefault("top_k", recipe.top_k)
        self.model = model or self._only_model()
        self.identity = {"url": self.url, "model": self.model, **({"fields": self.fields} if self.fields else {})}

    def _only_model(self) -> str:
        known = [model.id for model in self._asked(lambda: self.client.models.list().data)]
        if len(known) != 1:
            raise UserError(f"--url-model: missing; {self.url} has {', '.join(known) or 'no models'}")
        return known[0]

    def _asked(self, request: Any) -> Any:
        """A request's answer. What a user can mend is a `UserError`; anything else ends a run that can go on later."""
        import openai

        try:
            return request()
        except openai.AuthenticationError as error:
            raise UserError(f"--api-key-file: {self.url} refuses the key ({_reason(error)})") from None
        except openai.PermissionDeniedError as error:
            raise UserError(f"--url: {self.url} forbids it ({_reason(error)})") from None
        except openai.NotFoundError as error:
            raise UserError(
                f"--url: {self.url} has no such model or no completions ({_reason(error)}); addresses mostly end in /v1"
            ) from None
        except openai.APITimeoutError:
            raise RunFailure(f"{self.url} takes too long to answer; run the same command again to go on") from None
        except openai.APIConnectionError as error:
            raise UserError(
                f"--url: {self.url} cannot be reached ({error.__cause__ or error}); is the server up?"
            ) from None
        except openai.BadRequestError as error:
            raise UserError(f"--url: {self.url} refuses the request ({_reason(error)}); see --url-field") from None
        except openai.APIError as error:
            raise RunFailure(f"{self.url}: {_reason(error)}; run the same command again to go on") from None

    def __call__(
        self, prompt: str, *, seed: int, stop: Stop | None = None, max_new_tokens: int | None = None
    ) -> Completion:
        """Continue a prompt; `PromptTooLong` if the server says so."""
        import httpx
        import openai

        def request() -> Completion | None:
            try:
                return self._streamed(prompt, seed, ended_by(self.recipe, stop), max_new_tokens)
            except openai.BadRequestError as error:
                if any(words in str(error).lower() for words in TOO_LONG):
                    raise PromptTooLong(f"prompt: {self.url} says {_reason(error)}") from None
                raise
            except httpx.TransportError:  # in the middle of the answer, where the client does not try again
                return None

        for _ in range(1 + RETRIES):
            if (completion := self._asked(request)) is not None:
                return completion
        raise RunFailure(f"{self.url} breaks off its answers; run the same command again to go on")

    def _streamed(self, prompt: str, seed: int, ended: Stop, max_new_tokens: int | None) -> Completion | None:
        """One answer; None if it broke off, which is an answer without a reason to finish."""
        recipe = self.recipe
        most = max_new_tokens or recipe.max_new_tokens
        text, finish = "", None
        with self.client.completions.create(
            model=self.model,
            prompt=prompt,
            max_tokens=min(most, recipe.max_length or most),
            temperature=recipe.temperature,
            top_p=recipe.top_p if recipe.temperature else 1.0,
            seed=seed,
            stream=True,
            extra_body=self.fields or None,
        ) as stream:
            for chunk in stream:
                for choice in chunk.choices:
                    for character in choice.text or "":
                        text += character
                        if ended(text):
                            return Completion(cut(text, recipe), "stop")
                    finish = choice.finish_reason or finish
        return None if finish is None else Completion(text, "length" if finish == "length" else "eos")


def _reason(error: Any) -> str:
    """A server's own words, in one short line."""
    body = getattr(error, "body", None)
    words = body.get("message") if isinstance(body, Mapping) else None
    return " ".join(str(words or error).split())[:300]
