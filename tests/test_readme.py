"""The README's and the documents' commands, run as they stand there, on a small model and a small corpus."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command

SMALLER = (
    "training.steps=2 training.global_batch=4 training.evaluate_samples=4 data.seq_length=32 model.hidden_size=16 "
    "model.num_layers=1 model.num_heads=2 model.intermediate_size=32"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory in which the README's relative paths work: the configurations, some source code under ~/src."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", home / "configs")
    for package in ("json", "email"):  # two packages, so that one can be validation
        source = Path(os.__file__).parent / package
        shutil.copytree(source, home / "src" / package, ignore=shutil.ignore_patterns("__pycache__"))
    return home


def anchors(page):
    """What a link to a heading of a page says, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in plain}


def test_links_between_pages_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^)\s:]*)\)", page.read_text()):
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {name}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {name}#{anchor}"


def quick_start():
    block = re.search(r"## Quick start\n\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    return [line.split("  #")[0].strip() for line in block.splitlines()]


@pytest.mark.slow  # the first command's small run, and the tests of each command, are the default ones
def test_quick_start_runs_line_by_line(home):
    environment = {"HOME": str(home)}
    for line in quick_start():
        if not line.startswith("ms-codegeex"):
            assert line == ". .venv/bin/activate"
            continue
        words = [os.path.expanduser(w) if not w.startswith("~") else str(home) + w[1:] for w in shlex.split(line)[1:]]
        if words[0] == "train":  # the same command on less: a smaller model, fewer steps, a given corpus
            words += [] if "--corpus" in words else ["--corpus", str(home / "src")]
            corpus = words.index("--corpus")
            words[corpus:corpus] = SMALLER.split()
        result = command(*words, cwd=home, environment=environment)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert (home / "codegeex.pt").exists() and (home / "model" / "config.json").exists()


def test_every_command_in_the_documents_parses():
    from ms_codegeex.cli import build_parser

    for document in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for line in re.findall(
            r"^\s*(ms-codegeex [^\n`]+)|`(ms-codegeex [^`A-Z]+)`", document.read_text(), re.MULTILINE
        ):
            line = re.split("  #| (?:<|>|>>|\\|) ", "".join(line))[0]  # without the shell's part
            words = shlex.split(line)
            if len(words) > 2:
                build_parser().parse_args(words[1:])


def test_every_top_level_path_of_the_tree_exists():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    names = [word for line in tree.splitlines() for word in re.findall(r"^ *((?:[\w.]+/? ?)+?)(?:  |$)", line)]
    assert len(names) > 10
    for line in tree.splitlines():
        indented = line.startswith("  ")
        for word in re.split(r"\s{2,}", line.strip())[0].split():
            assert (ROOT / ("ms_codegeex" if indented else "") / word).exists(), word


def test_documented_configuration_keys_are_the_real_ones():
    from ms_codegeex.config import build_run_config

    def flat(tree, prefix=""):
        for key, value in tree.items():
            yield from flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]

    text = (ROOT / "docs" / "configuration.md").read_text()
    for key in flat(build_run_config({"training": {"steps": 1}}).to_dict()):
        section, _, name = key.rpartition(".")
        assert f"`{key}`" in text or (f"`{section}.*`" in text and f"`{name}`" in text), key


made_by_setup = pytest.mark.skipif(
    not (Path(sys.prefix) / ".ms_codegeex").is_dir(), reason="needs the environment that tests/run.sh makes"
)


def first_command(directory, *arguments, **settings):
    """`bash ascend_scripts/run_distributed.sh`, in the environment it has made, with no network to fall back on."""
    script = ["bash", str(ROOT / "ascend_scripts" / "run_distributed.sh"), "--venv", sys.prefix]
    environment = {**os.environ, "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_INDEX": "1", **settings}
    environment.pop("OMP_NUM_THREADS", None)
    result = subprocess.run([*script, *arguments], capture_output=True, text=True, env=environment, cwd=directory)
    assert result.returncode == 0, result.stderr
    return result.stdout


@made_by_setup
def test_first_command_with_a_small_run(home, tmp_path):
    """Without a home directory: not even root can write there."""
    words = [*SMALLER.split(), f"output={tmp_path}/run", "--corpus", str(home / "src")]
    output = first_command(tmp_path, *words, HOME="/proc/nowhere")
    for words in ("three prompts:", "\n  import os\n", "artefacts:", "try next:", "validation loss"):
        assert words in output
    following = output.split("try next:\n")[1].splitlines()
    assert len(following) == 3
    assert subprocess.run(["bash", "-c", following[1]], cwd=tmp_path, capture_output=True).returncode == 0
    for name in ("summary.json", "huggingface/model.safetensors", "codegeex.pt", "loss.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    card = (tmp_path / "run" / "huggingface" / "README.md").read_text()
    assert f"| loss, nats per token | {summary['validation_loss']:.4f} |" in card and "](loss.png)" in card


@pytest.mark.slow
@made_by_setup
def test_first_command_as_it_stands_makes_a_language_model(tmp_path):
    """The whole of it, about ten minutes on two cores: the default corpus, the default model, the promised figures."""
    output = first_command(tmp_path, f"output={tmp_path}/run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["validation_loss"] <= summary["unigram_entropy"] - 0.3
    assert summary["shuffled_context_loss"] >= summary["validation_loss"] + 0.2
    assert summary["parameters"] == 7_543_552 and summary["steps"] == 240
    assert all(line in output for line in summary["sample"].splitlines())
    assert all(f"\n{start}" in "\n" + summary["sample"] for start in ("def ", "import ", "class "))
    assert summary["sample"].lower().count("copyright") < 2  # licence headers are left out of the corpus
    assert Path(summary["huggingface"], "config.json").exists() and Path(summary["pytorch"]).exists()
