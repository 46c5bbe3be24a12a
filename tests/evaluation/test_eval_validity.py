"""Valid answers of two models, counted by language; what cannot be judged has a reason."""

from pathlib import Path

import humaneval_x_rows
import pytest

from ms_codegeex.evaluation import validity
from ms_codegeex.evaluation.benchmarks.humaneval_x import task as humaneval_x
from ms_codegeex.evaluation.local_model import LocalModel
from ms_codegeex.evaluation.recipe import Recipe
from ms_codegeex.evaluation.reports import page
from ms_codegeex.evaluation.session import Options
from ms_codegeex.evaluation.task import SampledAnswer

RIGHT = {name: row["canonical_solution"] for name, row in humaneval_x_rows.ROWS.items()}
WRONG = {"python": "    return 2 * number\n", "js": "  return 2 * number;\n}\n"}
BROKEN = {"python": "    return 3 *\n", "js": "  return 3 * ;\n}\n"}
ANSWERS = {"model": {"python": WRONG, "js": BROKEN}, "other": {"python": RIGHT, "js": RIGHT}}


class Written:
    """Writes what `ANSWERS` says for the model of this name."""

    concurrency = 1

    def __init__(self, model, recipe):
        self.answers, self.identity = ANSWERS[model.path.name], model.identity()

    def __call__(self, prompt, *, seed, stop=None, max_new_tokens=None):
        language = "python" if "def triple" in prompt else "js"
        return SampledAnswer(self.answers[language][language], "eos")


@pytest.mark.slow
@pytest.mark.strict_sandbox
def test_valid_answers_of_both_models_by_language(tmp_path, monkeypatch):
    monkeypatch.setattr(validity, "EngineSampler", Written)
    monkeypatch.setattr(LocalModel, "identity", lambda self: {"sha256": self.path.name, "fast": self.fast})
    for language in ("python", "js", "rust"):
        humaneval_x_rows.write(tmp_path / "data", language)
    task = humaneval_x.build(tmp_path / "data")
    task._chains["rust"].__dict__["found"] = None  # as on a machine without it
    models = {"model": LocalModel(Path("model"), fast=True), "other": LocalModel(Path("other"))}
    options = Options(tmp_path / "out", workers=1, progress=False)
    found = validity.compare_validity(task, Recipe("humaneval-x"), options, models)
    assert found["languages"] == {
        "python": {
            "model": {"answers": 1, "valid": 1, "passed": 0},
            "other": {"answers": 1, "valid": 1, "passed": 1},
        },
        "js": {"model": {"answers": 1, "valid": 0, "passed": 0}, "other": {"answers": 1, "valid": 1, "passed": 1}},
    }
    assert "apt-get install" in found["left_out"]["rust"]
    assert set(found["left_out"]) <= {"rust", "js-md5"}  # a module, which this machine may lack
    assert "HumanEval-X, js, valid answers: model 0 of 1, other 1 of 1" in list(validity.lines(found))
    text = page.render({"task": "perplexity", "validity": found})
    assert "other: valid" in text and "JavaScript" in text and "apt-get install" in text
    assert (tmp_path / "out" / "humaneval-x-other" / "report.html").is_file()
