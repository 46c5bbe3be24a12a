"""Decoding speed with random weights of CodeGen-350M's sizes, or of Qwen2.5-Coder-0.5B's, against transformers,
CTranslate2 and llama.cpp.

    python benchmarks/decode.py                                      # every engine that is installed, 5 rounds
    python benchmarks/decode.py --size 0.5b --engines ours-8 llama_cpp-q8_0 ours-4 llama_cpp-q4_0
    python benchmarks/decode.py --engines ours-8 ctranslate2-int8 --rounds 7
    python benchmarks/decode.py --cpu-level avx2                     # ours as on a CPU without AVX-512 and VNNI
    python benchmarks/decode.py --tiny --rounds 1                    # to check that it works

Each engine is a separate process with `--threads` threads; they take turns, and a ratio compares one round. Measured:
milliseconds a step for 1 and 8 sequences after prompts of 64 tokens, seconds to the first token of a long prompt, and
how fast this machine reads memory (CRC-32 of 1 GiB with as many threads) for the share of it that decoding reaches.
Engines: ours-32, ours-16 (FP16 weights), ours-8, ours-4 (groups of 64), both also -exact (FP32 activations) and -fast
(8 bits), transformers-float32, -bfloat16, -int8 (dynamic), ctranslate2-float32, -int8, llama_cpp-f32, -f16, -q8_0,
-q4_0 (llama-cpp-python, compiled for this CPU from its sdist; our GGUF of the same weights, whose head is Q8_0 in the
last one; its cache is FP16 unless the weights are FP32). Models are kept in --models for later runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import Worker, be_worker, options, print_command, quotients, spread, status_bytes, timed, verdict, versions

ENGINES = (
    *("ours-32", "ours-16", "ours-8", "ours-4"),
    *("ours-8-exact", "ours-4-exact", "ours-8-fast", "ours-4-fast"),
    *("transformers-float32", "transformers-bfloat16", "transformers-int8", "ctranslate2-float32", "ctranslate2-int8"),
    *("llama_cpp-f32", "llama_cpp-f16", "llama_cpp-q8_0", "llama_cpp-q4_0"),
)
DISTRIBUTIONS = {"llama_cpp": "llama_cpp_python"}  # of modules with another name
BATCHES, PROMPT = (1, 8), 64
MODELS = {"350m": ("codegen", "350m-multi"), "2b": ("codegen", "2b-multi"), "0.5b": ("qwen2", "0.5b")}
QWEN2_AIMS = (
    ("1", "ours-8", "llama_cpp-q8_0", 1.2),
    ("1", "ours-4", "llama_cpp-q4_0", 1.2),
    ("8", "ours-8", "llama_cpp-q8_0", 1.5),
    ("8", "ours-4", "llama_cpp-q4_0", 1.5),
)
AIMS = (  # measure, ours, peer, at least this many times as fast
    ("1", "ours-32", "transformers-float32", 2.0),
    ("1", "ours-32", "ctranslate2-float32", 1.0),
    ("1", "ours-32", "llama_cpp-f32", 1.0),
    ("1", "ours-8", "ctranslate2-int8", 1.6),
    ("1", "ours-8", "llama_cpp-q8_0", 1.3),
    ("8", "ours-8", "llama_cpp-q8_0", 1.0),
    ("1", "ours-4", "llama_cpp-q4_0", 1.0),
    ("8", "ours-4", "llama_cpp-q4_0", 1.0),
    ("1", "ours-4", "ours-8", 1.3),
    ("8", "ours-4", "ours-8", 1.2),
    ("first", "ours-32", "ctranslate2-float32", 1.2),
    ("first", "ours-32", "llama_cpp-f32", 1.0),
    ("first", "ours-8", "ctranslate2-int8", 1.2),
    ("first", "ours-8", "llama_cpp-q8_0", 1.0),
    ("first", "ours-4", "llama_cpp-q4_0", 1.0),
)
# memory: GB beyond the weights; of the cache only what was used is resident, and it counts here
BANDWIDTH_AIM, STREAMS_AIM, MEMORY_AIM = 0.8, 4.0, 1.0


def random_weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """FP32 weights of a parameter. No two parameters are equal: CTranslate2 stores equal ones once."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    return generator.standard_normal(shape, np.float32) * 0.02 + (len(shape) == 1 and name.endswith("weight"))


def make_models(root: Path, tiny: bool, engines: Sequence[str], size: str = "350m") -> Path:
    """The model directory; it and the forms that the engines need are made unless they exist."""
    from ms_codegeex.data.tokenizer import load_tokenizer
    from ms_codegeex.formats.family import FamilyFormats
    from ms_codegeex.formats.model_directory import write_model_directory
    from ms_codegeex.formats.sources import open_source
    from ms_codegeex.formats.tensors import LazyTensor
    from ms_codegeex.generation.quantised import is_quantised
    from ms_codegeex.generation.quantising import write_quantised
    from ms_codegeex.models.registry import family

    kind, preset = MODELS[size]
    directory = root / f"{kind}-{'tiny' if tiny else size}-random"
    if not (directory / "config.json").is_file():
        found = family(kind)
        sizes = {"eos_token_id": 50256, "max_position_embeddings": 2048} | ({"vocab_size": 51200} if tiny else {})
        config = found.config.build_config("tiny" if tiny else preset, sizes)
        formats, tokenizer = FamilyFormats(found), load_tokenizer("codegen-multi")

        def weights(name: str, shape: tuple[int, ...]) -> np.ndarray:
            values = random_weights(name, shape)
            if name == "head.bias":  # as after training: rows that no text uses are never the likeliest
                values[tokenizer.vocab_size :] = -100
            return values

        tensors = {
            name: LazyTensor("float32", shape, lambda name=name, shape=shape: weights(name, shape))
            for name, shape in config.parameter_shapes().items()
        }
        from ms_codegeex.formats.layout import to_foreign

        entries = formats.entries(formats.layout("huggingface"), config)
        written = {str(name): tensor for name, tensor in to_foreign(entries, tensors).items()}
        json_config = {**formats.to_json(config, {}), "torch_dtype": "float32"}
        write_model_directory(directory, json_config, written, tokenizer=tokenizer.save)
    for bits in (8, 4):
        quantised = directory.with_name(f"{directory.name}-ours-{bits}")
        if any(name.startswith(f"ours-{bits}") for name in engines) and not is_quantised(quantised):
            write_quantised(open_source(directory), bits, 64, quantised)
    for name in engines:
        target = directory.with_name(f"{directory.name}-{name}")
        if name.startswith("ctranslate2") and not target.exists():
            from ctranslate2.converters import TransformersConverter

            TransformersConverter(str(directory)).convert(str(target), quantization=name.partition("-")[2])
        if name.startswith("llama_cpp") and not target.exists():
            from ms_codegeex.formats.convert import convert

            convert(open_source(directory), "gguf", target, dtype=name.partition("-")[2], progress=False)
    return directory


def prompts(batch: int, length: int) -> list[list[int]]:
    """The same ids for every engine."""
    return [np.random.default_rng(100 + i).integers(0, 50000, length).tolist() for i in range(batch)]


class Ours:
    """Our engine with 8 slots."""

    def __init__(self, name: str, directory: Path, threads: int, cpu_level: str):
        import mindspore as ms

        from ms_codegeex.generation.choice import TokenChoice
        from ms_codegeex.generation.loading import load_model
        from ms_codegeex.generation.matrices import TensorWeights
        from ms_codegeex.generation.rows import SlotSizes, activation_bits
        from ms_codegeex.generation.slots import SlotEngine
        from ms_codegeex.generation.targets import open_network

        ms.set_context(mode=ms.GRAPH_MODE)
        bits, *how = name.split("-")[1:]
        model = load_model(directory.with_name(f"{directory.name}-ours-{bits}") if bits in ("8", "4") else directory)
        weights, config, slots = model.weights, model.config, max(BATCHES)
        if bits == "16":
            weights = TensorWeights(weights.tensors, 16, products=weights.tensors)
        precision = activation_bits("exact" in how, "fast" in how)
        sizes = SlotSizes(config.max_position_embeddings, slots, threads, precision, cpu_level=cpu_level)
        self.engine = SlotEngine(open_network(model.family, config, weights, sizes))
        numbers = sum(math.prod(shape) for shape in config.parameter_shapes().values())
        stored = sum(file.stat().st_size for file in model.path.glob("*.safetensors"))
        self.needed_gb = (2 * numbers if bits == "16" else stored) / 2**30
        self.greedy = TokenChoice()

    def generate(self, given: list[list[int]], new: int) -> list[list[int]]:
        sequences = {slot: list(ids) for slot, ids in enumerate(given)}
        for slot in sequences:
            self.engine.cached[slot] = []  # nothing is remembered from the round before
        for _ in range(new):
            for slot, (token, *_) in self.engine.next(sequences, dict.fromkeys(sequences, self.greedy)).items():
                sequences[slot].append(token)
        return [ids[len(given[slot]) :] for slot, ids in sequences.items()]


class Transformers:
    """transformers with torch."""

    def __init__(self, name: str, directory: Path, threads: int):
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        kind = name.partition("-")[2]
        dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
        self.model = AutoModelForCausalLM.from_pretrained(directory, torch_dtype=dtype).eval()
        if kind == "int8":
            self.model = torch.ao.quantization.quantize_dynamic(self.model, {torch.nn.Linear}, dtype=torch.qint8)
        self.model.generation_config.eos_token_id, self.torch = None, torch

    def generate(self, given: list[list[int]], new: int) -> list[list[int]]:
        ids = self.torch.tensor(given)
        options = {"do_sample": False, "max_new_tokens": new, "pad_token_id": 0}
        return self.model.generate(ids, attention_mask=self.torch.ones_like(ids), **options)[:, ids.shape[1] :].tolist()


class CTranslate2:
    """CTranslate2 with a converted model."""

    def __init__(self, name: str, directory: Path, threads: int):
        import ctranslate2

        path, kind = directory.with_name(f"{directory.name}-{name}"), name.partition("-")[2]
        self.vocabulary = json.loads((path / "vocabulary.json").read_text())
        self.generator = ctranslate2.Generator(str(path), intra_threads=threads, inter_threads=1, compute_type=kind)

    def generate(self, given: list[list[int]], new: int) -> list[list[int]]:
        tokens = [[self.vocabulary[i] for i in ids] for ids in given]
        options = {"max_length": new, "min_length": new, "sampling_topk": 1, "beam_size": 1, "end_token": []}
        found = self.generator.generate_batch(tokens, include_prompt_in_result=False, **options)
        return [result.sequences_ids[0] for result in found]


class LlamaCpp:
    """llama.cpp with 8 sequences, by the functions of its C library that llama-cpp-python passes on."""

    def __init__(self, name: str, directory: Path, threads: int):
        import llama_cpp

        self.library = llama_cpp
        (path,) = directory.with_name(f"{directory.name}-{name}").glob("*.gguf")
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(bytes(path), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = 2048 * max(BATCHES), max(BATCHES)
        settings.n_batch = settings.n_ubatch = 2048
        settings.n_threads = settings.n_threads_batch = threads
        if name.endswith("f32"):
            settings.type_k = settings.type_v = llama_cpp.GGML_TYPE_F32
        self.context = llama_cpp.llama_init_from_model(model, settings)
        self.batch = llama_cpp.llama_batch_init(settings.n_batch, 0, 1)
        self.rows = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def _next(self, tokens: Sequence[tuple[int, int, int, bool]]) -> list[int]:
        """Computes (token, position, sequence, whether its logits are wanted); the likeliest next tokens."""
        self.batch.n_tokens = len(tokens)
        for number, (token, position, sequence, wanted) in enumerate(tokens):
            self.batch.token[number], self.batch.pos[number] = token, position
            self.batch.n_seq_id[number], self.batch.seq_id[number][0] = 1, sequence
            self.batch.logits[number] = wanted
        if self.library.llama_decode(self.context, self.batch):
            raise SystemExit("llama.cpp could not compute a step")
        wanted = [number for number, token in enumerate(tokens) if token[-1]]
        logits = [self.library.llama_get_logits_ith(self.context, number) for number in wanted]
        return [int(np.ctypeslib.as_array(each, (self.rows,)).argmax()) for each in logits]

    def generate(self, given: list[list[int]], new: int) -> list[list[int]]:
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        last = [len(ids) - 1 for ids in given]
        flat = [(token, k, i, k == last[i]) for i, ids in enumerate(given) for k, token in enumerate(ids)]
        found = [self._next(flat)]
        for step in range(1, new):
            found.append(self._next([(token, last[i] + step, i, True) for i, token in enumerate(found[-1])]))
        return [list(ids) for ids in zip(*found, strict=True)]


def serve(name: str, directory: Path, threads: int, cpu_level: str) -> None:
    """Be one engine."""
    kinds = {"ours": Ours, "transformers": Transformers, "ctranslate2": CTranslate2, "llama_cpp": LlamaCpp}
    kind = name.partition("-")[0]

    def start() -> Callable[[list[int]], object]:
        engine = kinds[kind](name, directory, threads, *[cpu_level] * (kind == "ours"))

        def answer(request: list[int]) -> dict[str, Any]:
            """Seconds a step (of the first token if `new` is 1), ids, peak memory."""
            batch, length, new = request
            given, times = prompts(batch, length), []
            for count in (1, new) if new > 1 else (1,):
                begin = time.perf_counter()
                ids = engine.generate(given, count)
                times.append(time.perf_counter() - begin)
            seconds = (times[1] - times[0]) / (new - 1) if new > 1 else times[0]
            peak = status_bytes("VmHWM") / 2**30  # `getrusage` includes the peak of the process that started this
            return {"seconds": seconds, "ids": ids, "peak_gb": peak, "needed_gb": getattr(engine, "needed_gb", None)}

        return answer

    be_worker(start)


def started(name: str, directory: Path, threads: int, cpu_level: str) -> Worker:
    """An engine in a separate process."""
    words = [__file__, "--serve", name, "--models", str(directory), "--threads", str(threads)]
    return Worker(*words, "--cpu-level", cpu_level, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")


def report(results: dict[str, dict[str, list[float]]], wide: list[float], directory: Path) -> None:
    """The table, ratios by rounds, and which aims are met."""
    print(f"memory is read at {spread(wide)} GB/s")
    for name, found in results.items():
        steps = "  ".join(f"batch {b} {spread([1e3 * s for s in found[str(b)]])} ms" for b in BATCHES)
        print(f"  {name:22} {steps}  first {spread(found['first'])} s  peak {found['peak'][-1]:.1f} GB")

    def aim(what: str, ratios: list[float], minimum: float) -> None:
        print(f"  {what}: {spread(ratios)}, {verdict(statistics.median(ratios), minimum, least=True)}")

    for measure, ours, peer, minimum in QWEN2_AIMS if directory.name.startswith("qwen2") else AIMS:
        if ours in results and peer in results:
            what = "first token" if measure == "first" else f"batch {measure}"
            aim(f"{ours} over {peer}, {what}", quotients(results[peer][measure], results[ours][measure]), minimum)
    for name, found in results.items():
        if name.startswith("ours"):
            ratios = [8 * one / eight for one, eight in zip(found["1"], found["8"], strict=True)]
            aim(f"{name}, tokens/s of 8 streams over 1", ratios, STREAMS_AIM)
            beyond = found["peak"][-1] - found["needed"]
            met = verdict(beyond, MEMORY_AIM)
            print(f"  {name}, memory beyond weights, the cache's included: {beyond:.2f} GB, {met}")
    if "ours-32" in results:
        sizes = json.loads((directory / "config.json").read_text())
        looked_up = 0 if sizes.get("tie_word_embeddings") else sizes["vocab_size"] * sizes["n_embd"] * 4
        read = (directory / "model.safetensors").stat().st_size - looked_up
        shares = [read / s / 1e9 / w for s, w in zip(results["ours-32"]["1"], wide, strict=True)]
        aim("ours-32, share of the memory's speed", shares, BANDWIDTH_AIM)
    plain = results.get("ours-32", {}).get("ids"), results.get("transformers-float32", {}).get("ids")
    if all(plain):
        print(f"  ids of ours-32 and transformers-float32 are {'equal' if plain[0] == plain[1] else 'DIFFERENT'}")


def read_bandwidth(threads: int, size: int = 2**30) -> float:
    """Bytes a second at which `threads` threads read `size` bytes of memory: the time of their CRC-32."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np
    from isal import isal_zlib

    parts = [np.ones(size // threads, np.uint8) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return size / timed(lambda: list(pool.map(isal_zlib.crc32, parts)))


def main() -> None:
    parser = options(__doc__, rounds=5, models=True)
    parser.add_argument("--engines", nargs="+", choices=ENGINES)
    parser.add_argument("--new", type=int, default=64, help="tokens to generate (default 64)")
    parser.add_argument("--first", type=int, default=1024, help="length of the long prompt (default 1024)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a tiny model")
    parser.add_argument("--size", choices=MODELS, default="350m", help="whose sizes (default 350m)")
    parser.add_argument("--cpu-level", default="auto", help="instructions of our operators, as of `generate`")
    parser.add_argument("--serve", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve, arguments.models, arguments.threads, arguments.cpu_level)
    here = [name for name in ENGINES if name.startswith("ours") or importlib.util.find_spec(name.partition("-")[0])]
    engines = arguments.engines or here
    directory = make_models(arguments.models, arguments.tiny, engines, arguments.size).absolute()
    print_command()
    packages = dict.fromkeys(name.partition("-")[0] for name in engines if not name.startswith("ours"))
    print(versions("mindspore", *(DISTRIBUTIONS.get(name, name) for name in packages)))
    workers = {name: started(name, directory, arguments.threads, arguments.cpu_level) for name in engines}
    results: dict[str, dict[str, list]] = {name: {"first": [], "peak": []} for name in engines}
    wide: list[float] = []  # GB/s
    try:
        for turn in range(arguments.rounds + 1):  # the first one compiles and warms
            wide.append(read_bandwidth(arguments.threads) / 1e9)
            for name in engines[:: 1 if turn % 2 else -1]:
                for batch in BATCHES:
                    answer = workers[name].ask([batch, PROMPT, arguments.new])
                    results[name].setdefault(str(batch), []).append(answer["seconds"])
                    results[name]["ids"] = answer["ids"]
                answer = workers[name].ask([1, arguments.first, 1])
                results[name]["first"].append(answer["seconds"])
                results[name]["peak"].append(answer["peak_gb"])
                results[name]["needed"] = answer["needed_gb"]
    finally:
        for worker in workers.values():
            worker.end()
    for found in results.values():
        for key in ("first", *map(str, BATCHES)):
            del found[key][0]
    report(results, wide[1:], directory)


if __name__ == "__main__":
    main()
