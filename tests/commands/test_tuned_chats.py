"""A model that `finetune` has tuned on conversations is a chat model wherever it goes: its answers in `chat` and on a
server, its ids in transformers, and its answers on llama.cpp's server."""

import json
import urllib.request
from itertools import product
from pathlib import Path

import gguf_models
import numpy as np
import pytest
from conftest import command
from own_environment import cached_environment, run_in
from served import served

from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.description import read_description
from ms_codegeex.extras.terminal.local import TerminalModel
from ms_codegeex.formats.convert import convert
from ms_codegeex.generation.sampling import SamplingSettings
from ms_codegeex.training.first_values import initial_weight

pytestmark = pytest.mark.slow  # two runs, and other engines
OWN = (
    "{% for m in messages %}{{'<' + m['role'] + '>' + m['content'] + '<end>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<assistant>'}}{% endif %}"
)
ANSWERS = {"first": "def people", "second": "if first", "third": "return second", "fourth": "x = [1]"}
NUMBERS = range(40)  # in a system text, so that the conversations differ
TUNING = (
    *("training.steps=400", "training.global_batch=8", "data.seq_length=128", "training.evaluate_every=0"),
    *("training.patience=0", "training.schedule.learning_rate=1e-2", "logging.plots=false", "devices=1"),
)
LLAMA = """
import json, sys, urllib.request
from xllamacpp import CommonParams, Server

asked = json.load(sys.stdin)
params = CommonParams()
params.model.path, params.n_ctx, params.n_parallel, params.warmup = asked["path"], 128, 1, False
params.cpuparams.n_threads, params.use_jinja = 2, True
server = Server(params)

def post(path, **body):
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.listening_address + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request, timeout=300))

found = []
for messages in asked["chats"]:
    prompt = post("/apply-template", messages=messages)["prompt"]
    reply = post("/v1/chat/completions", messages=messages, max_tokens=24, temperature=0.0, top_k=1)
    found.append([prompt, reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]])
json.dump(found, sys.stdout)
"""


def conversation(question, number=7):
    return [{"role": "system", "content": f"{number}"}, {"role": "user", "content": f"Say the {question}."}]


def answered(question, number):
    return [*conversation(question, number), {"role": "assistant", "content": ANSWERS[question]}]


@pytest.fixture(scope="module", params=["ours", "own"])
def tuned(request, tmp_path_factory):
    """A run on conversations, with a template of ours or of the model's own; the folder of its products."""
    place = tmp_path_factory.mktemp("tuned")
    shapes = gguf_models.sizes("codegen").parameter_shapes()
    arrays = {name: initial_weight(name, shape, 0.02, 1) for name, shape in shapes.items()}
    convert(gguf_models.source("codegen", place / "tokenizer", arrays), "hf", place / "base", progress=False)
    if request.param == "own":
        (place / "base/provenance.json").unlink()
        added = {"chat_template": OWN, "additional_special_tokens": ["<end>"]}
        settings = json.loads((place / "base/tokenizer_config.json").read_text())
        (place / "base/tokenizer_config.json").write_text(json.dumps({**settings, **added}))
    rows = [{"messages": answered(question, number)} for number in NUMBERS for question in ANSWERS]
    (place / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--model", place / "base", "--data", place / "chats.jsonl", "--config", "finetune_full")
    done = command("finetune", *words, f"output={place / 'run'}", *TUNING, status=0)
    how = "written as plain, since the model has no chat template" if request.param == "ours" else "the model's own"
    assert f"conversations: {'written in a chat template, ' * (request.param == 'own')}{how}" in done.stderr
    assert "chat --model" in done.stdout.partition("try next:")[2].splitlines()[1]
    return request.param, place


def test_it_is_a_chat_model_everywhere(tuned):
    kind, place = tuned
    run, exported = place / "run", place / "run/huggingface"
    for words in (
        ("quantize", "--model", run, "--bits", 8, "--output", place / "int8"),
        ("convert", "--model", run, "--to", "mindspore", "--output", place / "m.ckpt"),
        ("convert", "--model", place / "m.ckpt", "--to", "hf", "--output", place / "back", "--tokenizer", exported),
        ("convert", "--model", run, "--to", "gguf", "--output", place / "gguf"),
    ):
        command(*words, status=0)
    (file,) = (place / "gguf").glob("*.gguf")
    command("convert", "--model", file, "--to", "hf", "--output", place / "again", status=0)

    # the answers that it has learnt, and where they end
    settings = SamplingSettings(max_new_tokens=24, temperature=0.0)
    for model in (run, exported, place / "int8", place / "back", place / "again"):
        asked = TerminalModel(model, threads=1)
        assert asked.chat, model
        for question, answer in ANSWERS.items():
            messages = [(each["role"], each["content"]) for each in conversation(question)]
            parts = list(asked.converse(settings, messages))
            assert ("".join(part.text for part in parts), parts[-1].finish) == (answer, "stop"), model
    with served(run, place / "serve.log") as server:
        for question, answer in ANSWERS.items():
            body = {"messages": conversation(question), "max_tokens": 24, "temperature": 0}
            request = urllib.request.Request(
                f"{server.url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            (choice,) = json.load(urllib.request.urlopen(request, timeout=300))["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (answer, "stop")

    # the ids that it was trained on
    transformers = pytest.importorskip("transformers")
    rows = trained_rows(place)
    for directory in (exported, place / "back", place / "again", place / "int8"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
        assert kind == "ours" or tokenizer.chat_template == OWN
        expected = set()
        for question, number in product(ANSWERS, NUMBERS):
            ids = tokenizer.apply_chat_template(answered(question, number))
            asked = conversation(question, number)
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True)
            assert ids[: len(prompt)] == prompt
            # a template of the model's own ends with a line break, in place of which the end token is learnt
            expected.add((*(ids if kind == "ours" else ids[:-1]), *([tokenizer.eos_token_id] * (kind == "own"))))
        assert rows <= expected and len(rows) > 100

    # llama.cpp writes the same prompt and gives the same answers
    python = cached_environment("xllamacpp", "xllamacpp==2026.10.11549", "gguf==0.19.0")
    chats = [conversation(question) for question in ANSWERS]
    done = run_in(python, "-c", LLAMA, given=json.dumps({"path": str(file), "chats": chats}))
    assert done.returncode == 0, done.stderr[-2000:]
    for (prompt, reply, finish), chat, answer in zip(json.loads(done.stdout), chats, ANSWERS.values(), strict=True):
        assert prompt == tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        assert (reply, finish) == (answer, "stop")


def trained_rows(place: Path) -> set[tuple[int, ...]]:
    """The rows of the dataset that the run was trained on."""
    (dataset,) = place.glob("tuning-*")
    sizes = IndexedDataset(dataset / "train").sizes
    ids = np.fromfile(dataset / "train.bin", np.uint16)
    assert len(ids) == sizes.sum()
    return {tuple(part.tolist()) for part in np.split(ids, np.cumsum(sizes)[:-1])}


def test_the_template_is_kept_byte_for_byte(tuned):
    kind, place = tuned
    chat = read_description(place / "run/huggingface").chat
    assert kind == "ours" or chat.default == OWN
