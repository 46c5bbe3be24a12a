"""Loss and pass rate over a run's checkpoints, from losses and reports that are known."""

import csv
import io
import re

from ms_codegeex.extras.evaluation.reports import scores
from ms_codegeex.extras.evaluation.reproduction import page, results
from ms_codegeex.extras.evaluation.reproduction.papers import paper

LOSSES = {"training loss": [(1, 5.0), (2, 4.0), (3, 3.0), (5, 2.0)], "validation loss": [(3, 3.5)]}
RATED = scores.score([(10, 5), (10, 0)], False)


def curve():
    report = {"scores": {"strict": {"all": RATED}}}
    rows = [
        results.checkpoint_row(2, "step-00000002", LOSSES, report, ""),
        results.checkpoint_row(4, "step-00000004", LOSSES, None, "no <memory>"),
    ]
    return results.CheckpointCurve("runs/mine", paper("codegen").parts[0], rows, LOSSES)


def test_losses_are_the_last_ones_up_to_a_checkpoint():
    first, second = curve().rows
    assert (first.training_loss, first.validation_loss, first.rate["value"]) == (4.0, None, 0.25)
    assert (second.training_loss, second.validation_loss, second.rate) == (3.0, 3.5, None)
    assert results.checkpoint_row(1, "", {}, {"scores": {}}, "").reason == "nothing was judged"


def test_every_cell_is_filled_or_explained():
    shown = page.checkpoints(curve())
    cells = re.findall(r"<td[^>]*>(.*?)</td>", shown)
    assert cells[:5] == ["2", "4.0000", "not logged", "2", "20"] and cells[5].startswith("25.00 % (")
    assert cells[6:] == ["4", "3.0000", "3.5000", "", "", "not run: no &lt;memory&gt;"]


def test_the_figure_has_both_losses_and_the_rate():
    shown = page.checkpoints(curve())
    assert shown.count("<svg") == 1 and shown.count("<polyline") == 3
    for words in ("pass rate", "training loss", "validation loss", "nats per token"):
        assert f">{words}</text>" in shown


def test_csv_and_latex():
    first, second = csv.DictReader(io.StringIO(results.checkpoints_csv(curve())))
    assert first["pass rate"] == "0.250000" and first["validation loss"] == "" and first["samples"] == "20"
    assert second["reason"] == "no <memory>" and second["training loss"] == "3.000000" and second["pass rate"] == ""
    latex = results.as_latex([results.checkpoints_table(curve())])
    assert "step 2 & 4.0000 &  & 25.00 \\% (" in latex and "step 4 & 3.0000 & 3.5000 & not run: no <memory>" in latex
