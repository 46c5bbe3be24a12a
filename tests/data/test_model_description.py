"""The record of what is known of a model: how it is read, merged, kept in directories and changed."""

import json
from dataclasses import fields, replace

import gguf_models
import pytest
from tokenizer_files import CODEGEEX4_TEMPLATE

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.conversations import TEMPLATES, ChatTemplate
from ms_codegeex.data.description import (
    FACTS,
    ModelDescription,
    chat_of,
    chat_texts,
    description_from,
    gguf_description,
    own_templates,
    read_description,
    recorded_description,
    save_description,
    taught_by,
    update_description,
)
from ms_codegeex.data.infilling.sentinels import Sentinels
from ms_codegeex.data.jinja_templates import JinjaTemplate
from ms_codegeex.data.tokenizer import load_tokenizer

CHATML = (
    "{% for m in messages %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
OWN = JinjaTemplate((("default", CHATML),))
KNOWN = ModelDescription(
    OWN, Sentinels(376, 377, 378), "codegeex", "parent", "talk", licence="mit", step=40, reason="the best of 100 steps"
)


def quiet(line):
    raise AssertionError(line)


def test_every_fact_survives_json():
    assert all(getattr(KNOWN, each.name) is not None for each in fields(ModelDescription))  # a new one is added above
    assert description_from(json.loads(json.dumps(KNOWN.to_json())), "here") == KNOWN
    assert ModelDescription().to_json() == {} and description_from({"format": 1}, "here") == ModelDescription()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"chta": "plain"}, r"serving\.json: chta is not known; did you mean 'chat'\?"),
        ({"format": 2, "new": 1}, r"serving\.json: format is 2, this version reads 1; install a newer ms-codegeex"),
        ({"format": "1"}, r"serving\.json: format is '1'.*write 1 there"),
        ([], r"serving\.json: expected a JSON object with chat, infill"),
        ({"chat": "gpt"}, r"serving\.json: chat: expected one of codegeex2, plain, or"),
        ({"chat": {"template": 3}}, r"serving\.json: chat: expected"),
        ({"chat": {"template": {}}}, r"serving\.json: chat: expected"),
        ({"chat": {"template": CHATML, "stop": "x"}}, r"serving\.json: chat: expected"),
        ({"infill": {"prefix": 1}}, r"serving\.json: infill: expected an object"),
        ({"tags": "perl"}, r"serving\.json: tags: tags 'perl': expected one of"),
        ({"step": -1}, r"serving\.json: step: -1; expected the number of a step"),
        ({"licence": "two\nlines"}, r"serving\.json: licence: .*expected one line of text"),
    ],
)
def test_a_wrong_record_is_refused_by_its_field(tmp_path, content, message):
    (tmp_path / "serving.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_description(tmp_path)


def test_a_record_that_contradicts_the_model_is_refused_by_its_field(tmp_path):
    tokenizer = load_tokenizer(gguf_models.write_tokenizer("codegen", tmp_path / "t"))
    KNOWN.check(tokenizer, 384, "here")
    with pytest.raises(UserError, match="here: infill: middle is 378, but the model's table has 378 rows"):
        KNOWN.check(tokenizer, 378, "here")


def test_an_adapter_and_training_add_to_their_base():
    added = ModelDescription(chat=TEMPLATES["plain"], step=3)
    both = added.over(KNOWN)
    assert both == replace(KNOWN, chat=TEMPLATES["plain"], step=3, adapter=None, reason=None)
    assert ModelDescription().over(KNOWN) == replace(KNOWN, adapter=None, step=None, reason=None)
    assert taught_by({"chat": "plain"}).over(KNOWN).chat == TEMPLATES["plain"]
    assert taught_by({}).over(KNOWN).chat == OWN
    corpus = {"settings": {"tags": "codegeex2"}, "splits": {"train": {"languages": {"Python": {}, "unknown": {}}}}}
    assert taught_by(corpus).tags == "codegeex2"
    corpus["splits"]["train"]["languages"] = {"unknown": {}}
    assert taught_by(corpus).tags is None  # no tag line was written


def test_checkpoints_of_earlier_versions_have_their_sentinels():
    marks = Sentinels(7, 8, 9)
    assert recorded_description({"infill": marks.to_json()}, "here") == ModelDescription(infill=marks)
    assert recorded_description({}, "here") == ModelDescription()
    assert recorded_description({"description": KNOWN.to_json(), "infill": None}, "here") == KNOWN


@pytest.mark.parametrize("chat", [*TEMPLATES.values(), OWN, ChatTemplate("U {content}", "A {content}", stop=("U",))])
def test_a_directory_keeps_it(tmp_path, chat):
    known = replace(KNOWN, chat=chat)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "CodeGenTokenizer"}')
    save_description(tmp_path, known)
    assert read_description(tmp_path, quiet) == known
    text = CHATML if chat == OWN else chat.jinja()
    assert (tmp_path / "chat_template.jinja").read_text() == text  # where transformers, vLLM and others look
    record = json.loads((tmp_path / "serving.json").read_text())
    assert record.get("chat") == next((name for name, ours in TEMPLATES.items() if ours == chat), record.get("chat"))
    save_description(tmp_path, ModelDescription())
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer_config.json"]


def test_an_adapter_without_a_tokenizer_has_all_of_it_in_one_file(tmp_path):
    save_description(tmp_path, KNOWN, tokenizer=False)
    assert [path.name for path in tmp_path.iterdir()] == ["serving.json"]
    assert read_description(tmp_path, quiet) == KNOWN


def test_files_that_say_it_stay_as_they_are(tmp_path):
    texts = {
        "serving.json": '{ "infill": {"prefix": 376, "suffix": 377, "middle": 378},\n "format": 1}',
        "tokenizer_config.json": json.dumps({"chat_template": CHATML}, indent=7),
        "README.md": "---\nlanguage: [code]\nlicense: mit\n---\n# x\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    known = read_description(tmp_path, quiet)
    assert known == ModelDescription(chat=OWN, infill=KNOWN.infill, licence="mit")
    save_description(tmp_path, known)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def test_templates_with_names_are_kept(tmp_path):
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": CHATML}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named, "x": 1}))
    chat = read_description(tmp_path).chat
    assert chat == JinjaTemplate((("default", CHATML), ("tool_use", "T"))) and chat.text_for(tools=True) == "T"
    (tmp_path / "b").mkdir()
    save_description(tmp_path / "b", ModelDescription(chat=chat))
    assert own_templates(tmp_path / "b") == dict(chat.texts)
    (tmp_path / "chat_template.jinja").write_text(CHATML)  # a file counts more, with the folder beside it
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("R")
    assert own_templates(tmp_path) == {"default": CHATML, "rag": "R"}
    for wrong in ([{"name": "default"}], 3, [1]):
        (tmp_path / "b" / "tokenizer_config.json").write_text(json.dumps({"chat_template": wrong}))
        with pytest.raises(UserError, match=r"tokenizer_config\.json: chat_template: expected a text"):
            read_description(tmp_path / "b")


def test_what_is_stated_counts_more_than_the_tokenizers_template_and_a_line_says_so(tmp_path):
    (tmp_path / "serving.json").write_text('{"chat": "plain"}')
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    said = []
    assert read_description(tmp_path, said.append).chat == TEMPLATES["plain"]
    assert len(said) == 1 and "serving.json: its chat is used" in said[0]


@pytest.mark.parametrize("name", gguf_models.MODELS)
@pytest.mark.parametrize("chat", [OWN, TEMPLATES["codegeex2"], JinjaTemplate((("default", CODEGEEX4_TEMPLATE),))])
def test_keys_of_a_gguf_file_bring_it_back(tmp_path, name, chat):
    tokenizer = load_tokenizer(gguf_models.write_tokenizer(name, tmp_path / "t"))
    known, prefix = replace(KNOWN, chat=chat), "[gMASK]<sop>" if tokenizer.prefix else ""
    keys = {key: value for key, _, value in known.gguf(tokenizer, prefix)}
    (text,) = chat_texts(chat).values()
    assert keys["tokenizer.chat_template"] == (text if text.startswith("[gMASK]") else prefix + text)
    short = {"pre": 376, "suf": 377, "mid": 378}
    assert {part: keys[f"tokenizer.ggml.fim_{part}_token_id"] for part in short} == short
    assert gguf_description(keys, prefix, "x.gguf") == known
    # what llama.cpp's tools change counts, and files of other programs have no record of ours
    changed = {**keys, "tokenizer.chat_template": f"{prefix}{{{{ messages[0].content }}}}", "general.license": "gpl"}
    found = gguf_description(changed, prefix, "x.gguf")
    assert (found.chat.default, found.licence, found.infill) == ("{{ messages[0].content }}", "gpl", known.infill)
    del changed["ms_codegeex.description"]
    assert gguf_description(changed, prefix, "x.gguf").infill == Sentinels(376, 377, 378)
    with pytest.raises(UserError, match=r"x\.gguf: ms_codegeex\.description"):
        gguf_description({"ms_codegeex.description": "{"}, "", "x.gguf")


def test_a_user_changes_one_fact(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "README.md").write_text("# A model\n")
    (tmp_path / "own.jinja").write_text(CHATML)
    assert update_description(tmp_path, "chat", "plain").chat == TEMPLATES["plain"]
    update_description(tmp_path, "infill", json.dumps(KNOWN.infill.to_json()))
    update_description(tmp_path, "licence", "mit")
    assert (tmp_path / "README.md").read_text() == "---\nlicense: mit\n---\n\n# A model\n"
    update_description(tmp_path, "licence", "apache-2.0")
    assert (tmp_path / "README.md").read_text() == "---\nlicense: apache-2.0\n---\n\n# A model\n"
    update_description(tmp_path, "base", "me/mine")  # the hub shows what a model was made from
    assert (tmp_path / "README.md").read_text().startswith("---\nbase_model: me/mine\nlicense: apache-2.0\n---\n")
    update_description(tmp_path, "base", "a-folder")
    assert (tmp_path / "README.md").read_text() == "---\nlicense: apache-2.0\n---\n\n# A model\n"
    update_description(tmp_path, "base", "")
    update_description(tmp_path, "licence", "other: see #2")  # as YAML reads it
    assert (tmp_path / "README.md").read_text().startswith("---\nlicense: 'other: see #2'\n")
    (tmp_path / "README.md").write_text("---\nlicense: gpl-3.0\n---\n")
    save_description(tmp_path, ModelDescription(licence="mit", infill=KNOWN.infill))
    said: list[str] = []
    assert read_description(tmp_path, said.append).licence == "mit"
    assert len(said) == 1 and "its licence mit is used, not gpl-3.0 of the model card; `ms-codegeex inspect" in said[0]
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# A model\n")
    assert update_description(tmp_path, "licence", "apache-2.0").licence == "apache-2.0"
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    found = update_description(tmp_path, "chat", str(tmp_path / "own.jinja"))  # and no other template
    assert found == read_description(tmp_path, quiet)
    assert found == ModelDescription(chat=OWN, infill=KNOWN.infill, licence="apache-2.0")
    assert update_description(tmp_path, "chat", "").chat is None and not own_templates(tmp_path)
    for key, value, message in (
        ("chta", "plain", "chta: not a fact about a model; did you mean 'chat'"),
        ("chat", "gpt", "chat: expected one of codegeex2, plain"),
        ("step", "x", "step: 'x'; expected the number of a step"),
    ):
        with pytest.raises(UserError, match=message):
            update_description(tmp_path, key, value)


def test_every_fact_says_what_it_is():
    assert all(fact.meaning for fact in FACTS.values())
    assert len([*KNOWN.lines()]) == len(FACTS)
    assert chat_of({"template": TEMPLATES["plain"].jinja()}) == TEMPLATES["plain"]
