"""A run's history from its files: made up here, so every figure is known."""

import json
import re

import pytest
import yaml
from conftest import small_run
from written_run import BEGIN, write_run

from ms_codegeex.base.errors import UserError
from ms_codegeex.data.datasets.opening import training_data
from ms_codegeex.data.tokenizer import load_tokenizer
from ms_codegeex.extras.corpus.prepare import RunOptions, prepare_dataset
from ms_codegeex.extras.corpus.settings import PrepareSettings
from ms_codegeex.runs.files import history as module
from ms_codegeex.runs.files.history import batch_text, read_history, write_history_page
from ms_codegeex.runs.files.run_directory import RunDirectory


def test_attempts_faults_and_goodput(dataset, tmp_path):
    run = write_run(tmp_path / "run", dataset)
    history = read_history(run.path)
    first, second = history.attempts
    times = (first.begin, first.end, first.first_step, first.last_step)
    assert (first.reason, times) == ("lost", (BEGIN, BEGIN + 35, 0, 4))
    assert (second.reason, second.end - second.begin, second.last_step) == ("failed", 50, 10)
    assert (history.step, history.state, history.counts["fault"]) == (10, "failed", 1)
    assert history.goodput == pytest.approx(10 * 4.0 / 100)  # ten steps of four seconds each hold
    assert history.last("loss") == 4.0 and history.last("validation_loss") is None
    for file in (run.log, run.events):  # as an editor of Windows saves it
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    again = read_history(run.path)
    assert (again.log, again.events) == (history.log, history.events)


def test_an_end_by_patience_is_said_until_the_run_goes_on(dataset, tmp_path):
    run = write_run(tmp_path / "run", dataset)
    assert read_history(run.path).out_of_patience == ""
    for event, said in (
        ({"event": "out of patience", "time": BEGIN + 101, "step": 10, "best": 0}, "step 10, the best is step 0"),
        ({"event": "start", "time": BEGIN + 102, "attempt": 3, "step": 10, "changed": []}, ""),
    ):
        run.events.write_text(run.events.read_text() + json.dumps(event) + "\n")
        assert read_history(run.path).out_of_patience == f"ended by training.patience at {said}" * bool(said)


def test_a_run_without_an_end_is_running_until_it_has_been_silent_for_long(dataset, tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", dataset, ended=False)
    assert read_history(run.path).state == "running"
    written = run.events.stat().st_mtime
    monkeypatch.setattr(module.time, "time", lambda: written + module.SILENT_SECONDS + 1)
    lost = read_history(run.path)
    assert lost.state == "lost" and lost.attempts[-1].end == pytest.approx(written, abs=1)


def test_a_run_that_has_not_begun_and_a_folder_that_is_no_run(dataset, tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    with pytest.raises(UserError, match="not a run directory"):
        read_history(run.path)
    run.config.write_text(yaml.safe_dump(small_run(dataset, run.path)))
    history = read_history(run.path)
    assert (history.state, history.step, history.goodput, history.tokens_per_second) == ("not started", 0, None, None)
    with pytest.raises(UserError, match=rf"name a run in it, such as {run.path}$"):
        read_history(tmp_path)
    run.config.write_text("later: 1\n")
    with pytest.raises(UserError, match=rf"^{run.config}: not the configuration of a run \(later: unknown key; "):
        read_history(run.path)


def test_the_page_has_everything_and_escapes_it(dataset, tmp_path):
    histories = {name: read_history(write_run(tmp_path / name, dataset).path) for name in ("a", "<i>b")}
    write_history_page(histories, tmp_path / "report.html", lambda history, first: f"<script>{first}")
    page = (tmp_path / "report.html").read_text()
    for words in ("&lt;script&gt;24", "&lt;b&gt;rank 1", "&lt;i&gt;b 2", "training loss", "40%", "lost", "spike"):
        assert words in page, words
    write_history_page({"<i>b": histories["<i>b"]}, tmp_path / "one.html", lambda history, first: "")
    assert "<title>Run &lt;i&gt;b</title>" in (tmp_path / "one.html").read_text()
    assert "<script" not in page and "<b>" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_every_plot_says_what_its_axes_are(dataset, tmp_path):
    run = write_run(tmp_path / "run", dataset)
    write_history_page({"run": read_history(run.path)}, tmp_path / "report.html", lambda history, first: "")
    page = (tmp_path / "report.html").read_text()
    axes = {}
    for figure in re.findall(r"<figure>.*?</figure>", page, re.DOTALL):
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure)[1]
        if "<polyline" in figure:
            (up,) = re.findall(r"rotate\(-90\)\"[^>]*>([^<]+)<", figure)
            axes[caption] = up
            assert ">step</text>" in figure
        else:
            assert ">time since the first start</text>" in figure and ">0:00</text>" in figure
            assert ">1:40</text>" in figure  # of 100 seconds
    expected = {"training loss": "nats per token", "gradient norm": "gradient norm", "memory of rank 0": "GB"}
    assert len(axes) >= 3 and {name: up for name, up in expected.items() if name in axes}.items() <= axes.items()
    assert axes["training loss"] == "nats per token"


def test_the_text_of_a_batch_is_that_of_its_samples(tmp_path):
    for number in range(30):
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / f"m{number}.py").write_text(f"def function_{number}():\n    return {number}\n" * 20)
    prepare_dataset(
        [tmp_path / "src"], tmp_path / "data", PrepareSettings(near_duplicates=0), RunOptions(workers=1, progress=False)
    )
    run = RunDirectory(tmp_path / "run")
    run.path.mkdir()
    values = small_run(tmp_path / "data", run.path)
    values["model"].update(vocab_size=52224, eos_token_id=50256)
    values["training"]["global_batch"] = 12
    run.config.write_text(yaml.safe_dump(values))
    history = read_history(run.path)
    text = batch_text(history, 24)
    rows = training_data(history.config).training_batch(24, 8).inputs
    for number, row in enumerate(rows):
        assert f"sample {24 + number}:\n{load_tokenizer('codegeex').decode(row[:120].tolist())}" in text
    assert "return" in text and text.endswith("… and 4 more")


def test_the_batch_of_a_fault_whose_data_is_gone_is_a_line_in_the_page(dataset, tmp_path):
    history = read_history(write_run(tmp_path / "run", dataset).path)
    write_history_page({"run": history}, tmp_path / "report.html", batch_text)  # this dataset names no tokenizer
    assert "dataset.json" in (tmp_path / "report.html").read_text()
