"""Programs that nobody has read, run where they can do no harm."""

from ms_codegeex.evaluation.sandbox.limits import Limits
from ms_codegeex.evaluation.sandbox.outcome import End, Execution, Verdict
from ms_codegeex.evaluation.sandbox.runner import Command, Sandbox, open_sandbox

__all__ = ["Command", "End", "Execution", "Limits", "Sandbox", "Verdict", "open_sandbox"]
