"""The README's and the documents' commands, run as they stand there, on a small model and a small corpus."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, command_here

# One worker: tests/commands/test_command_train.py trains with two.
SMALLER = (
    "devices=1 training.steps=2 training.global_batch=4 training.evaluate_samples=4 data.seq_length=32 "
    "model.hidden_size=32 model.num_layers=1 model.num_heads=1 model.intermediate_size=32 "
    "model.max_position_embeddings=128"
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
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        text = page.read_text()
        for name, anchor in re.findall(r"\]\(([^)#:\s]*)#?([^)\s:]*)\)", text):
            target = page.parent / name if name else page
            assert target.exists(), f"{page.name}: {name}"
            assert not anchor or anchor in anchors(target), f"{page.name}: {name}#{anchor}"


def blocks() -> list[list[str]]:
    """The commands of each block of the README, except the first one, whose commands set up and test."""
    found = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    first, *others = (block.splitlines() for block in found)
    assert [line.split()[1] for line in first] == ["ascend_scripts/run_distributed.sh", "tests/run.sh"]
    return others


ACTIVATE = ". .venv/bin/activate"


def words_of(line: str) -> list[str]:
    """A command's words, without the comment."""
    return shlex.split(line, comments=True)


def test_inputs_of_the_readme_are_in_a_clone_or_made_by_an_earlier_line():
    inputs = ("--model", "--data", "--input", "--corpus", "--servers", "--rank-table")
    made = {"runs/codegeex_tiny"}  # by the first command
    for line in (line for block in blocks() for line in block if line.startswith("ms-codegeex")):
        words = words_of(line)
        named = {words[i + 1] for i, word in enumerate(words) if word in inputs}
        named |= {word for word in words[2:] if "/" in word and "=" not in word and words[1] in ("inspect", "monitor")}
        new = {words[i + 1] for i, word in enumerate(words) if word == "--output"}
        new |= {word.removeprefix("output=") for word in words if word.startswith("output=")}
        for name in named - new:
            assert name in made or (ROOT / name).exists(), f"{line}: {name}"
            assert words[1] != "evaluate" or name in made or list((ROOT / name).glob("*.jsonl")), line
        made |= new
    assert {"runs/mine", "data/mine", "model", "cluster.json"} <= made
    if (ROOT / ".git").exists() and shutil.which("git"):
        words = ["git", "check-ignore", "--no-index", *sorted(f"{name}/" if "." not in name else name for name in made)]
        ignored = subprocess.run(words, cwd=ROOT, capture_output=True, text=True).stdout.split()
        assert {name.rstrip("/") for name in ignored} == made  # a reader's clone stays clean


CHECK = pytest.param("evaluate .* --check-references", marks=pytest.mark.strict_sandbox)


@pytest.mark.parametrize("quick", ["rank-table .*|train .* --dry-run", CHECK])
def test_quick_lines_of_the_readme(quick, tmp_path, monkeypatch):
    """As they stand, next to the checkout's configurations; the test of all lines takes long."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks() for line in block if re.match(f"ms-codegeex ({quick})", line)]
    assert lines
    for line in lines:
        command_here(*words_of(line)[1:], status=0)


@pytest.fixture
def clone(tmp_path):
    """The checkout's files that git has or would take, and the environment of this process."""
    words = ["git", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        if os.path.lexists(ROOT / name):  # not if it is about to be removed
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name, follow_symlinks=False)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run_block(block: list[str], clone: Path) -> None:
    """Every line in a shell with the activated environment, as it stands. A server runs until the block ends; the text
    of `chat` comes through a pipe."""
    environment = {**os.environ, "PYTHONPATH": str(clone)}
    environment.pop("OMP_NUM_THREADS", None)
    with contextlib.ExitStack() as stack:
        for line in block:
            shell = ["bash", "-c", f"{ACTIVATE} && exec {line.removeprefix(ACTIVATE)}"]
            options = {"cwd": clone, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
            if line.startswith("ms-codegeex serve "):
                server = stack.enter_context(subprocess.Popen(shell, **{**options, "stdout": subprocess.DEVNULL}))
                stack.callback(server.terminate)
                wait_for(server, re.search(r"http://\S+", line)[0])
                continue
            asked = "def add(a, b):\n" if line.startswith("ms-codegeex chat ") else ""
            result = subprocess.run(shell, input=asked, text=True, **options)
            assert result.returncode == 0, f"{line}\n{result.stdout[-4000:]}"


def wait_for(server: subprocess.Popen, address: str) -> None:
    """Until the server is ready."""
    while True:
        assert server.poll() is None, "serve has ended"
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}ready").close()
            return
        time.sleep(0.5)


def test_every_command_in_the_documents_parses():
    from ms_codegeex.cli import parse

    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        text = re.sub(r"\\\n *", "", document.read_text())  # lines that go on
        for line in re.findall(r"^\s*(ms-codegeex [^\n`]+)|`(ms-codegeex [^`A-Z]+)`", text, re.MULTILINE):
            line = re.split("  #| (?:<|>|>>|\\|) ", "".join(line))[0]  # without the shell's part
            words = shlex.split(line)
            if len(words) > 2:
                parse(words[1:])


def test_every_top_level_path_of_the_tree_exists():
    tree = re.search(r"## The tree\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
    names = [word for line in tree.splitlines() for word in re.findall(r"^ *((?:[\w.]+/? ?)+?)(?:  |$)", line)]
    assert len(names) > 10
    for line in tree.splitlines():
        folder = ("", "ms_codegeex", "ms_codegeex/extras")[(len(line) - len(line.lstrip())) // 2]
        for word in re.split(r"\s{2,}", line.strip())[0].split():
            assert (ROOT / folder / word).exists(), word


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
    said = ("million parameters continues ", "\n  def ", "artefacts:", "try next:", "validation loss", "bits a byte of")
    assert [words for words in said if words not in output] == []
    following = output.split("try next:\n")[1].splitlines()
    assert len(following) == 3
    assert subprocess.run(["bash", "-c", following[1]], cwd=tmp_path, capture_output=True).returncode == 0
    for name in ("summary.json", "huggingface/model.safetensors", "codegeex.pt", "loss.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert all(0 < summary[f"{name}_bits_per_byte"] < 10 for name in ("gzip", "byte_frequency"))
    assert summary["ngram_bits_per_byte"] < summary["validation_bits_per_byte"]  # after two steps
    assert summary["ngram_tokens"] == 2 * 4 * 33 and summary["parse_samples"] == 20 and 0 <= summary["parse_share"] <= 1
    assert re.search(r"^time \d+ s: (?:set-up \d+, )?corpus \d+, start and compile \d+, ", output, re.MULTILINE)
    card = (tmp_path / "run" / "huggingface" / "README.md").read_text()
    assert f"| loss, nats per token | {summary['validation_loss']:.4f} |" in card and "](loss.png)" in card


@pytest.mark.slow
@pytest.mark.strict_sandbox
@made_by_setup
@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs a checkout and git")
def test_first_command_and_every_block_as_they_stand_in_one_clone(clone):
    """The whole first command, some minutes on two cores: the default corpus, the default model, the promised
    figures. Then every other line of the README, in order; port 8000 has to be free, as for a reader."""
    output = first_command(clone)
    summary = json.loads((clone / "runs" / "codegeex_tiny" / "summary.json").read_text())
    assert summary["validation_loss"] <= summary["unigram_entropy"] - 0.3
    assert summary["shuffled_context_loss"] >= summary["validation_loss"] + 0.2
    assert summary["parameters"] == 989_952 and summary["steps"] == 2000
    simpler = summary["ngram_bits_per_byte"], summary["gzip_bits_per_byte"]
    assert summary["validation_bits_per_byte"] < min(simpler) and summary["parse_share"] > 0
    (corpus,) = (clone / "runs").glob("corpus-*/dataset.json")
    assert set(json.loads(corpus.read_text())["splits"]["train"]["languages"]) == {"Python"}
    assert all(line in output for line in summary["sample"].splitlines())
    assert len(summary["samples"]) == 3 and all(each["prompt"].startswith("def ") for each in summary["samples"])
    assert summary["sample"].lower().count("copyright") < 2  # licence headers are left out of the corpus
    assert Path(summary["huggingface"], "config.json").exists() and Path(summary["pytorch"]).exists()
    for block in blocks():
        run_block(block, clone)
    assert (clone / "codegeex.pt").exists() and (clone / "model" / "config.json").exists()
    assert json.loads((clone / "eval" / "report.json").read_text())
