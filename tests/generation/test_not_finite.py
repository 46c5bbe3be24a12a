"""One logit that is not finite, among many: nothing that reads logits takes the others for an answer."""

import numpy as np
import pytest

from ms_codegeex.base.errors import RunFailure
from ms_codegeex.generation.beams import next_tokens
from ms_codegeex.generation.scheduler import Scheduler

pytest.importorskip("torch")

from twins.tiny_models import Twin, finish, greedy, prompt

ODD, IDS = 70, prompt(20, 1)
pytestmark = pytest.mark.usefixtures("graph_mode_throughout")
COMPILED, COMPOSITE = pytest.param(2, id="compiled"), pytest.param(0, id="composite")
SLOW = pytest.param(0, id="composite", marks=pytest.mark.slow)  # its graphs take longer; the readers are the same code


@pytest.fixture(scope="module")
def engine(request):
    """With one damaged number: minus infinity leaves the sum of exponentials finite."""
    twin = Twin("codegen", num_layers=1)
    tensors = {name: array.copy() for name, array in twin.tensors.items()}
    tensors["head.bias"][ODD] = -np.inf
    return twin.engine(tensors, slots=2, threads=request.param)


@pytest.mark.parametrize("engine", [COMPILED, COMPOSITE], indirect=True)
@pytest.mark.parametrize("prompt_best", [None, 1])
def test_an_answer_ends_with_an_error(engine, prompt_best):
    scheduler, request = Scheduler(engine), greedy(IDS, 3, prompt_best=prompt_best)
    scheduler.submit(request)
    finish(scheduler, request)
    assert request.finish == "error" and not request.scored and not engine.cached[request.slot]
    with pytest.raises(RunFailure, match="logits are not finite"):
        list(request)


@pytest.mark.parametrize("engine", [COMPILED, SLOW], indirect=True)
@pytest.mark.parametrize(
    "read",
    [
        lambda engine: engine.logits(0, IDS),
        lambda engine: engine.all_logits(0, IDS),
        lambda engine: engine.log_probabilities(0, IDS),
        lambda engine: next_tokens(engine, [0, 1], [IDS, IDS[:9]], 4),
    ],
    ids=["logits", "all logits", "log-probabilities", "beams"],
)
def test_every_reader_of_logits_refuses_them(engine, read):
    with pytest.raises(RunFailure, match="logits are not finite"):
        read(engine)
    assert not engine.cached[0]
