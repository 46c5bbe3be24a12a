"""An untrusted model directory or run: what reaches the output of a conversion."""

import json
from pathlib import Path

import pytest
from conftest import command_here
from small_models import parameters, save_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.cli import main
from ms_codegeex.commands.convert import script
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.data.tokenizer.recorded import keep_files
from ms_codegeex.formats.convert import convert
from ms_codegeex.formats.sources import open_source
from ms_codegeex.generation.quantising import write_quantised

EVIL = "raise SystemExit('this ran')\n"
REMOTE = {"AutoConfig": "stranger/evil--modeling.C", "AutoModelForCausalLM": "modeling_evil.M"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Our own export of a run of CodeGeeX."""
    root = tmp_path_factory.mktemp("exported")
    convert(save_run(root / "run", "codegeex", parameters("codegeex")), "hf", root / "hf", progress=False)
    return root / "hf"


@pytest.fixture
def model(exported, tmp_path):
    """A copy of it, to be changed."""
    (tmp_path / "model").mkdir()
    for file in exported.iterdir():
        if file.name != "provenance.json":
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "model"


def change(path: Path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def everything(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file())


@pytest.mark.parametrize("target", ["../secret", "/proc/self/environ", "/dev/zero", "/"])
def test_links_out_of_a_model_are_refused(model, tmp_path, target):
    """Other files: test_hostile_directories.py."""
    (tmp_path / "secret").write_text("a private key")
    (model / "README.md").unlink()
    (model / "README.md").symlink_to(target)
    said = "model/README.md: is a link to .*, outside .*/model; replace it with a copy"
    for copy in (
        lambda: convert(model, "hf", tmp_path / "out", progress=False),
        lambda: convert(open_source(model, keep_code=True), "hf", tmp_path / "out", progress=False),
        lambda: write_quantised(open_source(model), 8, 0, tmp_path / "out"),
    ):
        with pytest.raises(UserError, match=said):
            copy()
        assert not (tmp_path / "out").exists()


def test_a_link_of_a_datasets_tokenizer_is_not_copied_to_a_run(tmp_path):
    (tmp_path / "dataset/tokenizer").mkdir(parents=True)
    load_tokenizer("codegen-nl").save(tmp_path / "dataset/tokenizer")
    (tmp_path / "dataset/tokenizer/install.py").write_text(EVIL)
    keep_files(tmp_path / "dataset", tmp_path / "run")
    assert not (tmp_path / "run/tokenizer/install.py").exists()
    assert load_tokenizer(tmp_path / "run/tokenizer").name == "codegen-nl"
    (tmp_path / "dataset/tokenizer/README.md").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match=r"tokenizer/README\.md: is a link to /etc/passwd, outside"):
        keep_files(tmp_path / "dataset", tmp_path / "run")


def test_untrusted_code_does_not_come_out(model, exported, tmp_path, capsys):
    others = ("modeling_evil.py", "setup.sh", "evil.so", "LICENSE.py", "README.html", "x.pickle", "hook.pth.py")
    for name in ("modeling_codegeex.py", "tokenization_codegeex.py", *others):
        (model / name).write_text(EVIL)
    for name in ("LICENSE", "README.md", "README_zh.md", "generation_config.json"):
        (model / name).write_text("{}")
    change(
        model / "config.json",
        auto_map=REMOTE,
        custom_pipelines={"text-generation": {"impl": "evil.P"}},
        attn_implementation="stranger/kernels",
        nested={"auto_map": REMOTE, "kept": [{"trust_remote_code": True}]},
        bos_token_id=7,
    )
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["stranger/evil--t.T", "modeling_evil.T"]})
    change(model / "generation_config.json", custom_generate="stranger/evil", auto_map=REMOTE, top_k=5)
    result = convert(model, "hf", tmp_path / "out", progress=False)
    written = everything(tmp_path / "out")
    assert not [word for word in (b"this ran", b"evil.", b"_evil", b"stranger/") if word in written]
    assert sorted(result["left_out"]) == sorted(("modeling_codegeex.py", "tokenization_codegeex.py", *others))
    for name in ("modeling_codegeex.py", "tokenization_codegeex.py"):
        assert (tmp_path / "out" / name).read_bytes() == (exported / name).read_bytes()
    ours, config = (json.loads((at / "config.json").read_text()) for at in (exported, tmp_path / "out"))
    assert config == ours | {"bos_token_id": 7, "nested": {"kept": [{}]}}
    tokenizer = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert tokenizer == json.loads((exported / "tokenizer_config.json").read_text())
    for name in ("LICENSE", "README_zh.md"):
        assert (tmp_path / "out" / name).read_text() == "{}"
    assert json.loads((tmp_path / "out/generation_config.json").read_text()) == {"top_k": 5}
    paths = ["--load-ckpt-path", str(model), "--save-ckpt-path", str(tmp_path / "by script")]
    assert script("hf", "for transformers", argv=paths) == 0
    assert b"this ran" not in everything(tmp_path / "by script")
    assert "--keep-code keeps Python files" in capsys.readouterr().err


def test_a_line_break_in_a_name_forges_no_line(model, tmp_path, capsys):
    (model / "x\nout: verified\n.sh").write_text(EVIL)
    assert main(["convert", "--model", str(model), "--to", "hf", "--output", str(tmp_path / "out")]) == 0
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("left out"))
    assert "x\\nout: verified\\n.sh, which" in line


def test_our_own_export_loses_nothing(model, tmp_path):
    result = convert(model, "hf", tmp_path / "out", progress=False)
    assert result["left_out"] == [] and result["warnings"] == []
    for file in model.iterdir():
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes()


def test_the_user_may_keep_the_code(model, tmp_path):
    for name in ("modeling_codegeex.py", "modeling_evil.py"):
        (model / name).write_text(EVIL)
    (model / "setup.sh").write_text(EVIL)
    change(model / "config.json", auto_map=REMOTE)
    result = convert(open_source(model, keep_code=True), "hf", tmp_path / "out", progress=False)
    assert result["left_out"] == ["setup.sh"]
    assert {(tmp_path / "out" / name).read_text() for name in ("modeling_codegeex.py", "modeling_evil.py")} == {EVIL}
    assert json.loads((tmp_path / "out/config.json").read_text())["auto_map"] == REMOTE
    with pytest.raises(UserError, match=r"--keep-code: .*/run is not a model directory"):
        open_source(save_run(tmp_path / "run", "codegeex", parameters("codegeex")), keep_code=True)


def test_what_is_lost_of_a_released_codegeex2_is_said(tmp_path):
    run = save_run(tmp_path / "run", "codegeex2", parameters("codegeex2"))
    convert(run, "hf", model := tmp_path / "model", progress=False)
    classes = ("configuration_chatglm.py", "modeling_chatglm.py", "tokenization_chatglm.py")
    for name in (*classes, "zipped.py"):
        (model / name).write_text("# of the release")
    names = {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]}
    (model / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "ChatGLMTokenizer", "auto_map": names}))
    result = convert(model, "hf", tmp_path / "out", progress=False)
    assert result["left_out"] == [*classes, "zipped.py"]
    assert result["warnings"] == [
        f"transformers has no classes for this model: copy {' and '.join(classes[:2])} of the release into it"
    ]
    kept = convert(open_source(model, keep_code=True), "hf", tmp_path / "kept", progress=False)
    assert kept["left_out"] == kept["warnings"] == []
    change(model / "tokenizer_config.json", auto_map=None)
    kept = convert(open_source(model, keep_code=True), "hf", tmp_path / "unnamed", progress=False)
    said = "as it is: tokenizer_config.json names no class for it (auto_map)"
    remedy = "convert without --keep-code, which writes the class"
    assert kept["warnings"] == [f"transformers and vLLM do not read its tokenizer {said}; {remedy}"]
    (line,) = (line for line in command_here("inspect", model).stdout.splitlines() if "vLLM" in line)
    assert line == f"  transformers and vLLM do not read it {said}; `ms-codegeex convert --to hf` writes its class"
