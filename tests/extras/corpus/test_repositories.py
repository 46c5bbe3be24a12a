"""Documents of whole repositories: the marks, their files, and the same bytes however they are made."""

import json
import random
from itertools import groupby

import pytest
import tokenizers
from conftest import command_here
from prepare_inputs import source

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.indexed import IndexedDataset
from ms_codegeex.data.datasets.layout import read_documents
from ms_codegeex.data.inspection import deep_check, open_dataset, verify_dataset
from ms_codegeex.extras.corpus import building, phases, reading, repositories
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings, ReadingSettings
from ms_codegeex.extras.corpus.tokenizer_training import TokenizerSettings, train_tokenizer

FILES = {
    "alpha/setup.py": source(1),
    "alpha/lib/mark.py": "def mark(text):\n    return '<|file_sep|>' + text + '<|endoftext|>'\n\n\n",
    "alpha/lib/bcd.py": "\n\n" + source(2, 20),
    "alpha/tests/same.py": source(1),  # a copy of setup.py, which comes before it
    "beta/main.py": source(3),
    "beta/web/page.js": "function page(a) {\n    return a + 'ünïcode';\n}\n",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("repositories")
    for name, text in FILES.items():
        (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "src" / name).write_text(text)
    for repository in ("alpha", "beta"):
        (root / "src" / repository / ".git").mkdir()
    lines = [
        {"text": source(100 + n), "lang": "python", "repo_name": f"octo/repo{n % 3}", "path": f"m/{n}.py"}
        for n in range(20)
    ]
    del lines[4]["path"], lines[5]["repo_name"]
    random.Random(1).shuffle(lines)
    (root / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    train_tokenizer([root / "src"], root / "own", TokenizerSettings(330, family="qwen2"))
    return root


def settings_for(place, limit=32768, **more):
    more = {"tags": "none", "max_bytes": None, "near_duplicates": 0, "validation_share": 0.0, **more}
    return PrepareSettings(tokenizer=str(place / "own"), repositories=limit, **more)


def prepare(inputs, output, settings, workers=1):
    return prepare_dataset(inputs, output, settings, RunOptions(workers, progress=False))


def documents(output, split="train"):
    data = IndexedDataset(output / split)
    return [data.document(number).tolist() for number in range(len(data))]


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def expected(place, repository, files):
    """The ids of a document, by the library's tokenizer without any special token, and the marks' ids."""
    stored = json.loads((place / "own/tokenizer.json").read_text("utf-8"))
    marks = {entry["content"]: entry["id"] for entry in stored.pop("added_tokens")}
    plain = tokenizers.Tokenizer.from_str(json.dumps({**stored, "added_tokens": []}))
    ids = [marks["<|repo_name|>"], *plain.encode(f"{repository}\n", add_special_tokens=False).ids]
    for path, text in files:
        text = f"{path}\n{text.rstrip()}\n"
        ids += [marks["<|file_sep|>"], *plain.encode(text, add_special_tokens=False).ids]
    return [*ids, marks["<|endoftext|>"]]


def test_the_files_of_a_repository_are_one_document(place, tmp_path):
    result = prepare([place / "src"], tmp_path / "out", settings_for(place))
    kept = sorted({*FILES} - {"alpha/tests/same.py"})
    whole = {
        repository: expected(place, f"src/{repository}", [(name.split("/", 1)[1], FILES[name]) for name in names])
        for repository, names in groupby(kept, lambda name: name.split("/")[0])
    }
    assert sorted(documents(tmp_path / "out")) == sorted(whole.values())
    assert result["repositories"] == {"repositories": 2, "files": 5, "documents": 2}
    assert result["splits"]["train"]["packages"] == ["src/alpha", "src/beta"]
    assert result["splits"]["train"]["tokens"] == sum(map(len, whole.values()))
    assert (result["tally"]["kept"], result["splits"]["train"]["documents"]) == (5, 2)
    assert result["tally"]["dropped"]["exact duplicate"]["count"] == 1
    dataset = open_dataset(tmp_path / "out")
    verify_dataset(dataset)
    assert [lossy for _, lossy in deep_check(dataset, "train", dataset.tokenizer())] == [0]
    rows = read_documents(tmp_path / "out/train").to_pylist()
    assert {row["source"]: row["language"] for row in rows} == {
        "src/alpha/lib/bcd.py": "Python",
        "src/beta/main.py": "Python",
    }
    report = json.loads((tmp_path / "out/report.json").read_text("utf-8"))
    assert (report["kept"]["documents"], report["input"]["documents"], report["repositories"]["files"]) == (2, 6, 5)
    assert "5 files of 2 repositories are 2 documents" in (tmp_path / "out/report.html").read_text("utf-8")


def test_a_sample_shows_the_marks_and_splits_the_last_file(place, tmp_path):
    output = tmp_path / "out"
    words = ["--input", place / "src", "--output", output, "--tokenizer", place / "own", "--no-tags", "--workers", "1"]
    more = ["--repositories", "32768", "--infill-rate", "1", "--infill-mode", "psm", "--validation-share", "0"]
    made = command_here("prepare", *words, *more)
    assert made.returncode == 0 and "joined: 5 files of 2 repositories are 2 documents" in made.stdout
    shown = command_here(
        "inspect", output, "--sample", "0", "--seq-length", str(len(documents(output)[0]) + 1), "--json"
    )
    runs = json.loads(shown.stdout)["sample"]["documents"][0]["runs"]
    marks = [number for number, run in enumerate(runs) if "sentinel" in run]
    assert [runs[number]["sentinel"] for number in marks] == ["prefix", "suffix", "middle"]
    texts = ["".join(run.get("text", "") for run in part) for part in (runs[: marks[0]], runs[marks[0] :])]
    repository = texts[0].split("\n")[0].removeprefix("<|repo_name|>src/")
    paths = [part.split("\n")[0] for part in texts[0].split("<|file_sep|>")[1:]]
    kept = sorted(f"{repository}/{path}" for path in paths if "<" not in path and "'" not in path)
    assert kept == sorted(name for name in FILES if repository in name and "same" not in name)
    assert texts[0].endswith(f"<|file_sep|>{paths[-1]}\n") and "<|file_sep|>" not in texts[1]


def test_a_large_repository_is_divided_between_files(place, tmp_path):
    files = [(name.removeprefix("alpha/"), FILES[name]) for name in sorted(FILES) if "alpha/" in name][:3]
    limit = len(expected(place, "src/alpha", files[:2]))
    result = prepare([place / "src"], tmp_path / "out", settings_for(place, limit))
    found = documents(tmp_path / "out")
    assert expected(place, "src/alpha", files[:2]) in found and expected(place, "src/alpha", files[2:]) in found
    assert result["repositories"] == {"repositories": 2, "files": 5, "documents": len(found)}
    prepare([place / "src"], tmp_path / "less", settings_for(place, limit - 1))
    less = documents(tmp_path / "less")
    assert expected(place, "src/alpha", files[:1]) in less and expected(place, "src/alpha", files[:2]) not in less
    prepare([place / "src"], tmp_path / "least", settings_for(place, 1))
    assert len(documents(tmp_path / "least")) == 5
    sources = [row["source"] for row in read_documents(tmp_path / "out/train").to_pylist()]
    assert len({*sources}) == len(sources)


def test_records_of_a_repository_meet_from_everywhere(place, tmp_path, monkeypatch):
    monkeypatch.setattr(phases, "BLOCK_DOCUMENTS", 3)
    monkeypatch.setattr("ms_codegeex.extras.shared.records.PART_BYTES", 4000)
    result = prepare([place / "records.jsonl"], tmp_path / "out", settings_for(place, validation_share=0.2))
    assert result["repositories"] == {"repositories": 3, "files": 19, "documents": 3}
    assert result["tally"]["records"]["kept"] == 20
    records = [json.loads(line) for line in (place / "records.jsonl").read_text().splitlines()]
    whole = [
        expected(place, name, [(it.get("path", "tmp"), it["text"]) for it in records if it.get("repo_name") == name])
        for name in ("octo/repo0", "octo/repo1", "octo/repo2")
    ]
    found = [ids for split in ("train", "validation") for ids in documents(tmp_path / "out", split)]
    (alone,) = [it["text"] for it in records if "repo_name" not in it]
    tokenizer = open_dataset(tmp_path / "out").tokenizer()
    assert sorted(found) == sorted([*whole, [*tokenizer.encode(alone), tokenizer.eos_id]])
    assert documents(tmp_path / "out", "validation")


@pytest.mark.parametrize("seed", range(3))
def test_each_split_has_its_own_repositories(place, tmp_path, seed):
    """Or files, where there is one repository only: those that are documents of their own without the option."""
    files = [{"text": source(200 + n), "lang": "python", "repo_name": f"r/{n % 5}", "path": f"{n}"} for n in range(30)]
    (tmp_path / "five.jsonl").write_text("".join(json.dumps(file) + "\n" for file in files))
    (tmp_path / "one").mkdir()
    for number in range(8):
        (tmp_path / f"one/{number}.py").write_text(source(300 + number))
    for name in ("five.jsonl", "one"):
        texts, described = [], []
        for limit in (None, 32768):
            output, settings = tmp_path / f"{name}-{limit}", settings_for(place, limit, validation_share=0.3, seed=seed)
            described.append(prepare([tmp_path / name], output, settings)["splits"])
            decode = open_dataset(output).tokenizer().file_texts
            texts += [{text for ids in documents(output, split) for text in decode(ids[:-1])} for split in described[0]]
        assert texts[:2] == texts[2:] and all(texts)
        assert all(described[0][split]["packages"] == described[1][split]["packages"] for split in described[0])


@pytest.mark.parametrize("workers, block", [(2, 3), pytest.param(2, 1 << 17, marks=pytest.mark.slow)])
def test_the_same_bytes_however_they_are_made(place, tmp_path, monkeypatch, workers, block):
    inputs, settings = [place / "src", place / "records.jsonl"], settings_for(place, 900, validation_share=0.3)
    once = prepare(inputs, tmp_path / "once", settings)
    monkeypatch.setattr(phases, "BLOCK_DOCUMENTS", block)
    monkeypatch.setattr(reading, "_UNIT_FILES", 2)
    again = prepare(inputs, tmp_path / "again", settings, workers)
    assert content(tmp_path / "once") == content(tmp_path / "again")
    assert once["repositories"] == again["repositories"] and documents(tmp_path / "once", "validation")


@pytest.mark.parametrize("place_of_stop", ["join", "write"])
def test_an_interrupted_run_goes_on(place, tmp_path, monkeypatch, place_of_stop):
    monkeypatch.setattr(phases, "BLOCK_DOCUMENTS", 3)
    monkeypatch.setattr(reading, "_UNIT_FILES", 1)
    inputs, settings = [place / "src", place / "records.jsonl"], settings_for(place)
    prepare(inputs, tmp_path / "whole", settings)
    join, calls = repositories._document, []

    def interrupt(*arguments):
        calls.append(arguments)
        if place_of_stop == "write" or len(calls) == 5:
            raise KeyboardInterrupt
        return join(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(
            *((building, "write_splits") if place_of_stop == "write" else (repositories, "_document")), interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            prepare(inputs, tmp_path / "out", settings)
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / ".out.work").glob("selection-*/joined-*.npz")}
    assert finished
    monkeypatch.setattr(building, "remove", lambda path: None)
    prepare(inputs, tmp_path / "out", settings)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


def test_another_limit_is_another_dataset(place, tmp_path):
    settings = settings_for(place)
    prepare([place / "src"], tmp_path / "out", settings)
    with pytest.raises(UserError, match="made from other inputs or settings"):
        prepare([place / "src"], tmp_path / "out", settings_for(place, 900))
    assert settings.record()["repositories"] == 32768
    assert "repositories" not in settings_for(place, None).record()


def test_a_tokenizer_without_marks_is_refused(place, tmp_path):
    settings = PrepareSettings(ReadingSettings(), repositories=4096)
    with pytest.raises(UserError, match=r"--repositories 4096: the codegeex tokenizer has no tokens .* leave out"):
        prepare([place / "src"], tmp_path / "out", settings)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.work").exists()
