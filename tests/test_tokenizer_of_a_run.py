"""The tokenizer of a corpus reaches the run that is trained on it, its checkpoints and what they generate."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import create_autospec

import pytest
from conftest import ROOT, command, command_here, small_run, write_config, write_dataset
from tokenizer_files import chatglm_model, write_chatglm

from ms_codegeex.base.errors import UserError
from ms_codegeex.base.files import write_json
from ms_codegeex.base.reading import read_json
from ms_codegeex.config.loading import load_config
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus import reading, sources
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings
from ms_codegeex.models.registry import family
from ms_codegeex.runs.files.records import read_log
from ms_codegeex.runs.training_job import check_datasets, resolve_data


def write_packages(root, functions):
    """Twenty of them; one is 5 % for validation."""
    for number in range(20):
        (root / f"package{number}").mkdir(parents=True)
        lines = [f"def f_{number}_{i}(x):\n    return x + {i}\n" for i in range(functions)]
        (root / f"package{number}" / "module.py").write_text("".join(lines))


@pytest.mark.slow
def test_from_the_corpus_to_the_generated_text(tmp_path):
    write_packages(tmp_path / "src", 4)
    model, data, run = write_chatglm(tmp_path / "model"), tmp_path / "data", tmp_path / "run"
    _done("prepare", "--input", tmp_path / "src", "--output", data, "--tokenizer", model, "--workers", "1")
    shutil.rmtree(model)
    values = small_run(data, run)
    values["model"] |= {"vocab_size": 448, "eos_token_id": 2}
    values["training"]["steps"] = 2
    config = write_config(tmp_path / "config.yaml", values)
    command("train", "--config", config, status=0)

    summary = read_json(run / "summary.json")
    assert 0 < summary["ngram_bits_per_byte"] < summary["byte_frequency_bits_per_byte"] < 8
    assert summary["parse_share"] is None  # nothing was exported to draw samples from
    description = read_json(data / "dataset.json")["tokenizer"]
    assert read_json(run / "checkpoints/step-00000002/manifest.json")["tokenizer"] == description
    assert load_tokenizer(run / "tokenizer").fingerprint == description["fingerprint"]
    answer = _done("generate", "--model", run, "--prompt", "def f():\n", "--max-new-tokens", "3", "--json")
    prompt_tokens = len(load_tokenizer(run / "tokenizer").encode_prompt("def f():\n"))  # two more than the text
    assert json.loads(answer)["prompt_tokens"] == prompt_tokens

    _done("convert", "--model", run, "--to", "hf", "--output", tmp_path / "hf")
    assert load_tokenizer(tmp_path / "hf").fingerprint == description["fingerprint"]

    shutil.rmtree(data)  # another corpus in place of the first, with ids that mean something else
    write_chatglm(model, chatglm_model(vocab_size=400))
    _done("prepare", "--input", tmp_path / "src", "--output", data, "--tokenizer", model, "--workers", "1")
    resumed = command("train", "--config", config, "--resume", "auto", "training.steps=3", status=2)
    assert "data.train: tokenizer fingerprint: " in resumed.stderr


OWN = {"codegeex": (400, 381), "codegen": (400, 361), "qwen2": (400, 391)}  # ids, and the one that ends a document


@pytest.mark.parametrize("family", ["codegeex", *(pytest.param(name, marks=pytest.mark.slow) for name in [*OWN][1:])])
def test_a_tokenizer_of_ones_own_from_the_text_to_transformers(tmp_path, family):
    """Trained, prepared with, trained on, generated with, quantized, exported, and read by transformers' classes."""
    transformers = pytest.importorskip("transformers")
    tokenizer, data, run, (size, end) = tmp_path / "own", tmp_path / "data", tmp_path / "run", OWN[family]
    text, prompt = ROOT / "ms_codegeex" / "config", "def f(x):\n        return  x\t\t# \u4f60\n"
    _done("tokenizer", "train", "--family", family, "--vocab-size", size, "--input", text, "--output", tokenizer)
    _done("prepare", "--input", text, "--output", data, "--tokenizer", tokenizer, "--workers", "1")
    ids = load_tokenizer(tokenizer).encode_prompt(prompt)
    shutil.rmtree(tokenizer)
    values = small_run(data, run)
    values["model"] |= {"family": family, "vocab_size": size, "eos_token_id": end}
    if family == "codegen":
        values["model"] |= {"rotary_dim": 4}
    values["training"]["steps"] = 2
    config = write_config(tmp_path / "config.yaml", values)
    wrong = command_here("train", "--config", config, "model.eos_token_id=0", status=2)
    assert f"with {end}; set model.eos_token_id={end}" in wrong.stderr
    command("train", "--config", config, status=0)

    _done("convert", "--model", run, "--to", "hf", "--output", tmp_path / "hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        patch.syspath_prepend(tmp_path / "modules")
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    assert theirs(prompt).input_ids == ids and (len(theirs), theirs.eos_token_id) == (size, end)
    models = [tmp_path / "hf"]
    if family != "codegeex":
        models += [run, tmp_path / "quantized"]
        _done("quantize", "--model", run, "--bits", "8", "--output", models[-1])
    for model in models:
        found = json.loads(_done("generate", "--model", model, "--prompt", prompt, "--max-new-tokens", "3", "--json"))
        assert found["prompt_tokens"] == len(ids)
        assert load_tokenizer(run / "tokenizer" if model == run else model).encode_prompt(prompt) == ids


def test_the_end_of_a_tokenizer_of_ones_own_follows_from_its_size():
    for name in (*OWN, "codegeex2"):
        after, end = family(name).config.build_config(None, {}).after_end, TokenizerSettings(600, family=name).end_token
        assert end == (None if after is None else 599 - after)


def test_a_corpus_that_a_run_prepares_with_a_tokenizer_of_its_own(tmp_path, capsys):
    """The next run with the same corpus has the same one."""
    words = [f"output={tmp_path / 'run'}", "model.preset=tiny", "data.tokenizer_size=400", "model.vocab_size=400"]
    words += ["model.eos_token_id=381", "training.steps=2"]
    config = load_config(None, words)
    assert load_config(None, [word for word in words if "vocab_size" not in word and "eos" not in word]) == config
    for _ in range(2):
        resolved = resolve_data(config, [str(ROOT / "ms_codegeex" / "config")], quiet=True)
        dataset, (trained,) = check_datasets(resolved), tmp_path.glob("tokenizer-*")
        assert read_json(dataset / "dataset.json")["tokenizer"] == load_tokenizer(trained).description()
        assert f"tokenizer {trained} (delete it to train one afresh)" in capsys.readouterr().err
    for size, message in (
        (100, "data.tokenizer_size: 100 is out of range; give 275 to "),
        (401, "data.tokenizer_size: 401 ids do not fit the model; set model.vocab_size=401 model.eos_token_id=382"),
        (300, "data.tokenizer_size: 300 ids do not fit the model; set model.vocab_size=300 model.eos_token_id=281"),
    ):
        other = replace(config, data=replace(config.data, tokenizer_size=size))
        with pytest.raises(UserError, match=re.escape(message)):
            resolve_data(other, [str(ROOT / "ms_codegeex" / "config")], quiet=True)
    assert len([*tmp_path.glob("tokenizer-*")]) == 1  # found before anything is trained or prepared
    with pytest.raises(UserError, match=r"data\.tokenizer_size: data\.tokenizer is given too"):
        load_config(None, [*words, "data.tokenizer=codegeex"])


def test_a_run_from_a_model_prepares_its_corpus_with_that_models_tokenizer(tmp_path):
    """Its first loss is far below a fresh model's, as the ids mean the same."""
    write_packages(tmp_path / "src", 20)
    values = small_run(tmp_path, tmp_path / "first" / "run")
    values["model"] |= {"vocab_size": 300, "eos_token_id": 281}
    values["data"] = {"seq_length": 32}
    values["training"] |= {"steps": 60}
    words = ["train", "--corpus", tmp_path / "src"]
    first, second = tmp_path / "first", tmp_path / "second"
    _done(*words, "--config", write_config(tmp_path / "config.yaml", values), "data.tokenizer_size=300")
    further = [f"output={second / 'run'}", f"model.weights={first / 'run'}", "training.steps=1", "data.seq_length=32"]
    _done(*words, *further)  # without a configuration: the model's sizes
    (dataset,) = second.glob("corpus-*")
    own = load_tokenizer(first / "run" / "tokenizer").description()
    assert read_json(dataset / "dataset.json")["tokenizer"] == own and own["name"] == "own-codegeex"
    fresh, further = (read_log(place / "run" / "log.jsonl")[0]["loss"] for place in (first, second))
    assert further <= fresh - 3


@pytest.mark.parametrize("key", ["data.validation", "data.held_out.other"])
def test_what_a_run_is_evaluated_on_has_ids_of_the_same_meaning(tmp_path, key):
    """Both tokenizers end a document with 50256, so only the meanings of the ids differ."""
    for name in ("codegeex", "codegen-multi"):
        directory, tokenizer = write_dataset(tmp_path / name), load_tokenizer(name)
        info = {"vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id, "tokenizer": tokenizer.description()}
        write_json(directory / "dataset.json", read_json(directory / "dataset.json") | info)
    words = ["training.steps=2", "data.seq_length=32", f"data.train={tmp_path / 'codegeex'}"]

    def checked(place):
        return check_datasets(load_config(Path("codegeex_tiny_release"), [*words, f"{key}={tmp_path / place}"]))

    assert checked("codegeex") == tmp_path / "codegeex"
    with pytest.raises(UserError, match=rf"{key}: token 50257 of .*codegen-multi is another one in"):
        checked("codegen-multi")
    with pytest.raises(UserError, match=rf"{key}: .*dataset\.json"):
        checked("")


def test_languages_of_the_corpus_that_a_run_prepares(tmp_path, monkeypatch):
    """Of this machine's sources those languages are taken; of the user's files all. Small roots stand in for the
    machine's, which the README's first command meets in tests/test_readme.py."""
    folders = [ROOT / "ms_codegeex" / name for name in ("config", "kernels", "models")]
    roots = create_autospec(sources.default_roots, return_value=sources.user_roots(folders))
    monkeypatch.setattr(sources, "default_roots", roots)
    words = [f"output={tmp_path / 'run'}", "model.preset=tiny", "training.steps=2"]
    config = load_config(None, [*words, "data.languages=[python]"])

    def languages(corpus):
        directory = check_datasets(resolve_data(config, corpus, quiet=True))
        return set(read_json(directory / "dataset.json")["splits"]["train"]["languages"])

    assert languages([]) == {"Python"}
    assert languages([*map(str, folders)]) == {"Python", "C++"}
    with pytest.raises(UserError, match=r"data\.languages: unknown language 'klingon'"):
        resolve_data(load_config(None, [*words, "data.languages=[klingon]"]), [], quiet=True)


def test_the_tokenizer_and_the_corpus_of_a_run_are_made_of_one_search(tmp_path, monkeypatch):
    searched = []

    def counted(roots, languages, recognise=None, all_text=False, leave_out=(), licences=False):
        """`sources.search`, counted."""
        searched.append(leave_out)
        return sources.search(roots, languages, recognise, all_text, leave_out, licences)

    monkeypatch.setattr(reading, "search", counted)
    shutil.copytree(ROOT / "ms_codegeex" / "config", tmp_path / "text")
    words = ["model.preset=tiny", "data.tokenizer_size=400", "model.vocab_size=400", "model.eos_token_id=381"]
    found = {}
    for place in (tmp_path / "run", tmp_path / "text/run"):
        config = load_config(None, [*words, "training.steps=2", f"output={place}"])
        found[place.parent.name] = Path(resolve_data(config, [str(tmp_path / "text")], quiet=True).data.train)
        resolve_data(config, [str(tmp_path / "text")], quiet=True)
    assert searched == [frozenset(), frozenset()]
    one, two = (directory / "train.bin" for directory in found.values())
    assert one.read_bytes() == two.read_bytes()
    two.write_bytes(b"")  # so it is prepared again
    resolve_data(config, [str(tmp_path / "text")], quiet=True)
    assert searched[2:] == [{two.parent}]


def _done(*words):
    """Standard output of a command that succeeds."""
    return command_here(*words, status=0).stdout
