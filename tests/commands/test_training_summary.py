"""What the end of a run prints about its losses."""

import pytest

from ms_codegeex.commands.training_job import _longer, _losses
from ms_codegeex.config.rules import build_run_config

SUMMARY = {"steps": 60, "evaluated_step": 60, "validation_loss_before": None}


def said(loss, entropy, shuffled, **more):
    losses = {"validation_loss": loss, "unigram_entropy": entropy, "shuffled_context_loss": shuffled}
    return list(_losses({**SUMMARY, **losses, **more}))


def test_a_model_that_has_learnt():
    assert said(2.0, 4.5, 3.25) == [
        "validation loss 2.000 nats per token after 60 steps",
        "  a table of token frequencies would have 4.500, 2.500 more: the model is better",
        "  with shuffled contexts the model has 3.250, 1.250 more: so the context is used",
    ]


def test_a_model_that_has_learnt_nothing():
    assert said(10.668, 4.515, 10.5, validation_loss_before=11.0) == [
        "validation loss 10.668 nats per token after 60 steps, 11.000 before",
        "  a table of token frequencies would have 4.515, 6.153 less: the model is no better",
        "  with shuffled contexts the model has 10.500, 0.168 less: so the context is not used",
    ]


@pytest.mark.parametrize("shuffled", [3.0, None])
def test_equal_and_missing_figures(shuffled):
    lines = said(3.0, 3.0, shuffled)
    assert "0.000 less: the model is no better" in lines[1]
    assert lines[2:] == (
        [] if shuffled is None else [f"{lines[2].split(', ')[0]}, 0.000 less: so the context is not used"]
    )
    assert said(None, 3.0, None) == ["60 steps; no validation loss: it is not finite"]


def test_which_step_the_figures_are_of():
    best = said(2.0, 4.5, 3.0, evaluated_step=40, validation_loss_before=2.5)
    assert best[0] == "validation loss 2.000 nats per token at step 40, the best of 60, 2.500 before"
    kept = said(2.5, 4.5, 3.0, evaluated_step=0, validation_loss_before=2.5)
    assert kept[0].startswith("NO STEP WAS BETTER than the model that the run started from") and "2.500" in kept[1]
    worse = said(3.0, 4.5, 3.5, validation_loss_before=2.5)
    assert worse[0].endswith("after 60 steps, 2.500 before") and "WORSE than the model" in worse[1]
    assert "training.patience" in worse[2]


def test_what_to_try_next_names_what_ended_the_run():
    config = build_run_config({"training": {"steps": 20, "patience": 2, "evaluate_every": 2}})
    assert _longer(config, {"steps": 4, "tokens": 9}) == "training.patience=4"
    assert _longer(config, {"steps": 20, "tokens": 9}) == "training.steps=40"
