"""The five pages of docs/journeys: every command as a reader types it, in a folder that holds what the page says, with
the installed wheel. Released weights and clusters are made small here, by values that are added to the commands."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from installed_wheel import environment_with
from own_environment import VARIABLES, pip_of_index

PAGES = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "docs/journeys").glob("*.md"))}
RUN = "devices=1 training.global_batch=2 training.evaluate_samples=2 logging.plots=false"
SMALL = "model.hidden_size=32 model.num_layers=1 model.num_heads=1 model.intermediate_size=32"
ADDED = {  # by page and by how a command begins
    "tune": {
        "train": f"{RUN} training.steps=2 data.seq_length=64",
        "finetune": f"{RUN} training.steps=12",
        "chat": "--no-history --max-new-tokens 4",
    },
    "train": {
        "prepare": "--workers 1",
        "train --config codegeex_tiny": f"{RUN} {SMALL} training.steps=300 data.seq_length=32",
        "monitor runs/first": "--once",
        "generate": "--max-new-tokens 4",
    },
    "evaluate": {
        "evaluate humaneval --output": "--limit 4",
        "evaluate humaneval --url": "--limit 2 --n 2 --max-new-tokens 8",
        "evaluate humaneval --model": "--limit 2 --n 2 --max-new-tokens 8",
    },
    "cluster": {},
    "publish": {},
}


def commands(page: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", PAGES[page], re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_five_short_pages():
    """That their commands are understood, tests/test_readme.py shows."""
    assert PAGES.keys() == ADDED.keys()
    for page, text in PAGES.items():
        assert len(text.split()) <= 700, page
        lines = [line for line in commands(page) if line.startswith("ms-codegeex ")]
        assert len(lines) >= 5
        for start in ADDED[page]:
            assert any(line.startswith(f"ms-codegeex {start}") for line in lines), (page, start)


class Reader:
    """Types the commands of a page in a shell with the wheel's environment; a server runs until the page ends."""

    def __init__(self, page, wheel, place):
        self.page, self.work, self.place = page, place / "work", place
        self.work.mkdir()
        self.bin = environment_with(wheel, place / "venv")
        self.variables = {**VARIABLES, "PATH": f"{self.bin}:{VARIABLES['PATH']}"}
        self.replaced = {}
        self.server = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.server is not None:
            self.server.terminate()
            self.server.communicate()

    def typed(self, line):
        """The command with small values instead of the page's."""
        for ours, small in self.replaced.items():
            line = line.replace(ours, small)
        words, redirect, file = line.partition(" > ")
        more = [more for start, more in ADDED[self.page].items() if words.startswith(f"ms-codegeex {start}")]
        return " ".join([words, *more]) + redirect + file

    def start(self, line, **options):
        simple = not line.startswith(("(", "cd "))  # the shell would stay between a signal and the command
        shell = ["bash", "-c", f"exec {line}" if simple else line]
        return subprocess.Popen(shell, cwd=self.work, env=self.variables, text=True, **options)

    def run(self, line, given="", status=0):
        """What the command prints, on standard output and error."""
        if line.startswith("pip install "):
            pip = pip_of_index(self.bin / "python", self.place)
            line = shlex.join([*map(str, pip), *shlex.split(line)[1:]])
        line = self.typed(line)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = self.start(line, **pipes)
        printed, _ = process.communicate(given)
        assert process.returncode == status, f"{line}\n{printed[-4000:]}"
        return printed

    def serve(self, line):
        """Wait until it serves; later commands find it at its free port."""
        self.server = self.start(f"{self.typed(line)} --port 0", stdout=subprocess.PIPE)
        address = re.match(r"serving .* (http://\S+)\n", self.server.stdout.readline())[1]
        self.replaced["http://127.0.0.1:8000"] = address.rstrip("/")

    def read(self):
        """All commands of the page in order; what each printed, by the command."""
        printed = {}
        for line in commands(self.page):
            if line.startswith("ms-codegeex serve "):
                self.serve(line)
            else:
                printed[line] = self.run(line, "How do I call add with 3?\n")
        return printed

    def json(self, path):
        return json.loads((self.work / path).read_text())


@pytest.fixture
def reader(request, wheel, tmp_path):
    page = request.node.name.removeprefix("test_page_")
    with Reader(page, wheel, tmp_path) as reader:
        yield reader


def released(directory, seed=0):
    """What the download of a CodeGen has: weights as a pickle, its configuration and its own tokenizer."""
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    from ms_codegeex.data.tokenizer import load_tokenizer

    torch.manual_seed(seed)
    sizes = {"n_embd": 64, "n_layer": 1, "n_head": 4, "rotary_dim": 8, "n_positions": 256, "n_ctx": 256}
    config = transformers.CodeGenConfig(vocab_size=51200, eos_token_id=50256, **sizes)
    transformers.CodeGenForCausalLM(config).save_pretrained(directory, safe_serialization=False)
    load_tokenizer("codegen-mono").save(directory)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    tokenizer.save_pretrained(directory)


def sources(directory, *names):
    """Packages of Python's own library."""
    for name in names:
        source = Path(os.__file__).parent / name
        shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__", "tests"))


def repository(directory):
    sources(directory, "json", "email", "wsgiref")
    subprocess.run(["git", "init", "-q", directory], check=True)


needs = {
    name: pytest.mark.skipif(shutil.which(name) is None, reason=f"needs {name}") for name in ("curl", "git", "openssl")
}


@pytest.mark.slow
@needs["curl"]
@needs["git"]
@needs["openssl"]
def test_page_tune(reader):
    released(reader.work / "codegen-350M-mono")
    repository(reader.work / "acme")
    names = ("add", "plus", "total", "both")
    for file, numbers in (("chats.jsonl", range(80)), ("held_out.jsonl", range(80, 100))):
        pairs = [(f"How do I call {names[n % 4]} with {n}?", f"{names[n % 4]}({n})") for n in numbers]
        rows = [[{"role": "user", "content": ask}, {"role": "assistant", "content": answer}] for ask, answer in pairs]
        (reader.work / file).write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    printed = reader.read()
    assert "a model tuned for conversations" in printed["ms-codegeex chat --model runs/chat"]
    (answer,) = (text for line, text in printed.items() if line.startswith("curl "))
    assert '"chat.completion"' in answer
    before, after = (reader.json(f"{name}/report.json")["perplexity"] for name in ("before", "after"))
    assert after["perplexity"] < before["perplexity"] and after["tokens"] == before["tokens"]
    for name in ("assistant", "assistant-int8"):
        assert reader.json(f"{name}/serving.json")["chat"] == "plain"
    assert list((reader.work / "assistant-gguf").glob("*.gguf"))


@pytest.mark.slow
@needs["git"]
def test_page_train(reader):
    repository(reader.work / "acme")
    sources(reader.work / "packages", "logging", "urllib", "concurrent", "xml")
    reader.replaced = {"4096": "512", "4077": "493"}
    for line in commands("train"):
        if not line.startswith("ms-codegeex train --config codegeex_tiny"):
            printed = reader.run(line)
            if line.startswith("ms-codegeex tokenizer"):
                assert "model.vocab_size=512" in printed and "model.eos_token_id=493" in printed
            continue
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        train = reader.start(reader.typed(line), **pipes)
        shown = []
        for text in train.stdout:
            if text.startswith("step ") and not any(line.startswith("step ") for line in shown):
                os.killpg(train.pid, signal.SIGINT)  # Ctrl-C, which all processes of the terminal's job get
            shown.append(text)
        assert train.wait() == 130, "".join(shown)
        again = r"ms-codegeex train --config \S+/runs/first/config\.yaml --resume auto"
        assert re.search(again, "".join(shown))
    steps = [json.loads(row)["step"] for row in (reader.work / "runs/first/log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 301))  # none was trained twice
    assert (reader.work / "first.html").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_page_evaluate(reader):
    released(reader.work / "base")
    released(reader.work / "tuned", seed=1)
    (reader.work / "held_out").mkdir()
    shutil.copy(json.__file__, reader.work / "held_out/code.py")
    printed = reader.read()
    assert any("4 of 4 pass" in text for line, text in printed.items() if line.endswith("--check-references"))
    assert len(reader.json("compared/comparison.json")["pairs"]) == 1


@pytest.mark.slow
def test_page_cluster(reader):
    """The plan is that of a small model, whose rehearsal takes a minute."""
    reader.replaced = {"codegeex_13b_64": "codegeex_base_8", "/shared": str(reader.work / "shared")}
    ports = [",".join(f"192.168.{server}.{device}" for device in range(8)) for server in range(4)]
    lines = [f"10.0.0.{11 + server}={addresses}\n" for server, addresses in enumerate(ports)]
    (reader.work / "servers.txt").write_text("".join(lines))
    (reader.work / "left.txt").write_text("".join(lines[:3]))
    for line in commands("cluster"):
        reader.run(line)
        if line.endswith("> start.sh"):  # from another folder
            words = f"cd / && sh -c {shlex.quote((reader.work / 'start.sh').read_text().strip() + ' --dry-run')} sh 2"
            assert "rank 16 on device 0 of 10.0.0.13" in reader.run(words)
    assert "#SBATCH --nodes=4" in (reader.work / "job.sh").read_text()
    assert "image: IMAGE" in (reader.work / "job.yaml").read_text()


@pytest.mark.slow
@needs["openssl"]
def test_page_publish(reader):
    released(reader.work / "codegen-350M-mono")
    printed = reader.read()
    assert "licence" in printed["ms-codegeex checkpoint verify mine"]
    card = (reader.work / "mine/README.md").read_text()
    assert "license: apache-2.0" in card and "base_model: Salesforce/codegen-350M-mono" in card
