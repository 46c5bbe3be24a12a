"""Our files in llama.cpp's server, which a wheel of xllamacpp has, and compared with those of its converter, from the
source of llama-cpp-python.

The converter takes CodeGeeX2 only as `THUDM/chatglm3-6b`, and runs the model's own tokenizer class: the copy of the
directory that it gets says so, and has a class with that one's methods.
"""

import argparse
import ast
import calendar
import heapq
import json
import os
import shutil
import subprocess
import sys
import tarfile
import textwrap
import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizer_files
from code_dataset import functions, write_code
from conftest import command
from gguf import GGUFReader
from gguf_models import MODELS, TEXT, parameters, source, write_tokenizer

from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.engine import Generator
from ms_codegeex.generation.sampling import SamplingSettings

pytestmark = pytest.mark.slow
REQUIREMENTS = Path(__file__).with_name("requirements-llama-cpp.txt")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
LLAMA = """
import json, sys, urllib.request
from xllamacpp import CommonParams, Server, ggml_type

asked = json.load(sys.stdin)
params = CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = asked["path"], 128, 1, False
params.cpuparams.n_threads, params.cache_type_k, params.cache_type_v = 2, *[ggml_type.GGML_TYPE_F32] * 2
server = Server(params)

def post(path, **body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=300))

def complete(ids, length, **more):
    settings = {"temperature": 0.0, "top_k": 1, "repeat_penalty": 1.0, "return_tokens": True, "cache_prompt": False}
    return post("/completion", prompt=ids, n_predict=length, **settings, **more)

tokens = [post("/tokenize", content=text, add_special=True, parse_special=True)["tokens"] for text in asked["texts"]]
answers = [complete(ids, 64)["tokens"] for ids in asked["ids"]]
likely = []
if asked["forced"] is not None:  # a token of whole characters: of others the server tells nothing
    forced = complete(asked["ids"][0], 1, n_probs=100_000, logit_bias=[[asked["forced"], 100.0]])
    likely = forced["completion_probabilities"][0]["top_logprobs"]
json.dump({"tokens": tokens, "answers": answers, "likely": likely}, sys.stdout)
"""
TOKENIZER = """
from types import SimpleNamespace
from sentencepiece import SentencePieceProcessor

COMMANDS = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"]


class ChatGLMTokenizer:
    def __init__(self, path):
        self.tokenizer = SimpleNamespace(sp_model=SentencePieceProcessor(model_file=f"{path}/tokenizer.model"))
        self.pieces = self.tokenizer.sp_model.vocab_size()

    @classmethod
    def from_pretrained(cls, path, *_, **__):
        return cls(path)

    @classmethod
    def register_for_auto_class(cls, *_):
        pass

    def get_vocab(self):
        return {str(number): number for number in range(self.pieces + len(COMMANDS))}

    def _convert_id_to_token(self, number):
        if number < self.pieces:
            return "" if number < 3 else self.tokenizer.sp_model.id_to_piece(number)
        return COMMANDS[number - self.pieces] if number < self.pieces + len(COMMANDS) else ""
"""


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The source of llama-cpp-python, unpacked, next to a wheel of xllamacpp."""
    place = tmp_path_factory.mktemp("source")
    words = ["download", "-q", "--no-deps", "--require-hashes", "-r", REQUIREMENTS]
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check"]
    if subprocess.run([*pip, *words, "-d", place], env=ENVIRONMENT).returncode:
        pytest.skip("needs a package index")
    (path,) = place.glob("llama_cpp_python-*.tar.gz")
    with tarfile.open(path) as tar:
        tar.extractall(place, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # not in each 3.11
    return path.with_name(path.name.removesuffix(".tar.gz"))


@pytest.fixture(scope="module")
def llama(archive):
    """Asks llama.cpp's server for tokens, greedy answers and the log-probabilities of the next token."""
    (wheel,) = archive.parent.glob("xllamacpp-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(archive.parent / "site")

    def ask(path, ids, texts=(), forced=None):
        request = json.dumps({"path": str(path), "ids": ids, "texts": texts, "forced": forced})
        environment = {**ENVIRONMENT, "PYTHONPATH": str(archive.parent / "site")}
        words, texts = [sys.executable, "-c", LLAMA], {"capture_output": True, "text": True}
        done = subprocess.run(words, input=request, env=environment, **texts)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    return ask


def exported(model, place, dtype):
    """The file of a model, and the text with which its prompts begin."""
    result = convert(model, "gguf", place, dtype=dtype, progress=False)
    (path,) = place.glob("*.gguf")
    return path, result["prompt_begins_with"]


def content(path):
    """Keys and tensors of a file, by the `gguf` package."""
    reader = GGUFReader(path)
    keys = {key: field.contents() for key, field in reader.fields.items() if key != "GGUF.kv_count"}
    tensors = {one.name: (one.tensor_type.name, one.shape.tolist(), one.data.tobytes()) for one in reader.tensors}
    return keys, tensors


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A CodeGeeX2 as the converter wants it."""
    place = tmp_path_factory.mktemp("model")
    convert(source("codegeex2", place / "tok"), "hf", place / "hf", progress=False)
    theirs = shutil.copytree(place / "hf", place / "theirs")
    config = json.loads((theirs / "config.json").read_text())
    del config["auto_map"]
    (theirs / "config.json").write_text(json.dumps({**config, "_name_or_path": "THUDM/chatglm3-6b"}))
    auto_map = {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}
    settings = {"tokenizer_class": "ChatGLMTokenizer", "auto_map": auto_map}
    (theirs / "tokenizer_config.json").write_text(json.dumps(settings))
    (theirs / "tokenization_chatglm.py").write_text(TOKENIZER)
    (theirs / "README.md").unlink()
    return place


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32", "q8_0"])
def test_the_converter_writes_the_same(archive, directory, tmp_path, dtype):
    script = archive / "vendor" / "llama.cpp" / "convert_hf_to_gguf.py"
    words = [sys.executable, script, directory / "theirs", "--outtype", dtype, "--outfile", tmp_path / "theirs.gguf"]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, words)), env={**ENVIRONMENT, **home}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    path, _ = exported(open_source(directory / "hf"), tmp_path / "ours", dtype)
    (ours, our_tensors), (theirs, their_tensors) = content(path), content(tmp_path / "theirs.gguf")
    assert our_tensors == their_tensors
    named = {"general.basename", "general.finetune", "general.organization"}  # guessed from that name
    assert theirs.keys() - ours.keys() == named and ours.keys() <= theirs.keys()
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different == {"general.name", "tokenizer.ggml.tokens"}
    pairs = zip(ours["tokenizer.ggml.tokens"], theirs["tokenizer.ggml.tokens"], strict=True)
    assert [pair for pair in pairs if pair[0] != pair[1]] == [("<sop>", "sop"), ("<eop>", "eop")]


TEXTS = (TEXT, "people = philosophy\n", "\n\n    x  =  1\t\t# \u00e9\n", "import os\n")


@pytest.mark.parametrize("name", MODELS)
def test_tokens_and_logits_of_random_weights(llama, tmp_path, name):
    """The FP32 file; llama.cpp reads GELU from a table of FP16."""
    arrays = parameters(name)
    model = source(name, tmp_path / "tok", arrays)
    path, prefix = exported(model, tmp_path / "out", "f32")
    tokenizer = load_tokenizer(tmp_path / "tok")
    ids = [tokenizer.encode_prompt(text) for text in TEXTS]
    letters = next(id_ for id_ in ids[0] if tokenizer.decode([id_]).isalpha() and tokenizer.decode([id_]).isascii())
    found = llama(path, [ids[0][:100]], [prefix + text for text in TEXTS], letters)
    assert found["tokens"] == ids
    logits = generator_of(model, tmp_path).logits(ids[0][:100]).astype(np.float64)
    expected = logits - np.logaddexp.reduce(logits)
    theirs = {each["id"]: each["logprob"] for each in found["likely"]}
    assert len(theirs) > len(logits) // 2
    assert max(abs(theirs[id_] - expected[id_]) for id_ in theirs) < 2e-3 * np.abs(logits).max()


def test_tokens_of_qwen2(llama, tmp_path):
    """Its tokenizer with CodeGen's weights. Names of marks are tokens in both; llama.cpp does not make NFC."""
    tokenizer = load_tokenizer(tokenizer_files.write_qwen2(tmp_path / "tok", size=300))
    model = source("codegen", tmp_path / "own")
    fields = {**model.fields, "eos_token_id": tokenizer.eos_id}
    path, _ = exported(replace(model, fields=fields, save_tokenizer=tokenizer.save), tmp_path / "out", "f32")
    drawn = tokenizer_files.drawn_texts(400)
    texts = [text for text in drawn if unicodedata.is_normalized("NFC", text) and "\0" not in text]
    found = llama(path, [], texts)
    assert found["tokens"] == [tokenizer.encode_prompt(text) for text in texts] and len(texts) > 200


def generator_of(model, place):
    convert(model, "hf", place / "ours", progress=False)
    return Generator(place / "ours")


@pytest.fixture(scope="module", params=["codegeex2", "codegen", "qwen2"])
def trained(request, tmp_path_factory):
    """A run of a hundred steps on Python code."""
    name, place = request.param, tmp_path_factory.mktemp(request.param)
    texts = functions(argparse, ast, calendar, heapq, textwrap)
    own = write_tokenizer(name, place / "tok")
    tokenizer = load_tokenizer(larger_tokenizer(own, texts) if name == "codegeex2" else own)
    dataset = write_code(place / "data", tokenizer, texts)
    shutil.copytree(place / "tok", dataset / "tokenizer", dirs_exist_ok=True)
    words = f"output={place}/run data.train={dataset} data.validation={dataset} data.tokenizer=null data.seq_length=128"
    words += " training.global_batch=8 training.micro_batch=8 training.steps=100 training.evaluate_every=100"
    words += " checkpoint.every=100 training.schedule.learning_rate=3e-3 model.vocab_size=1024"
    eos = "" if name == "codegeex2" else f" model.eos_token_id={tokenizer.eos_id}"
    command("train", "--config", f"{name}_tiny", *(words + eos).split())
    return place / "run"


def larger_tokenizer(place, texts):
    """A tokenizer of a thousand pieces."""
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_files, "LINES", lines)
        return tokenizer_files.write_chatglm(place, tokenizer_files.chatglm_model(vocab_size=1000))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_greedy_ids_of_a_trained_model(llama, trained, tmp_path, dtype):
    """64 tokens after each of several prompts."""
    generator = generator_of(open_source(trained), tmp_path)
    path, _ = exported(open_source(trained), tmp_path / "out", dtype)
    prompts = ("def add(self, people, name):\n", "import os\n", "class A(B):\n    def f(self):\n        if x == y:\n")
    ids = [generator.tokenizer.encode_prompt(prompt) for prompt in prompts]
    expected = [list(generator.tokens(each, SamplingSettings(64, temperature=0.0))) for each in ids]
    assert sum(map(len, expected)) > 100
    without_end = [[id_ for id_ in each if id_ != generator.tokenizer.eos_id] for each in expected]
    assert llama(path, ids)["answers"] == without_end
