"""Run programs that nobody has reviewed, without harm to this machine. Imports nothing else of `evaluation`."""

from ms_codegeex.extras.evaluation.sandbox.limits import ResourceLimits
from ms_codegeex.extras.evaluation.sandbox.outcome import End, Execution, Verdict, published_verdict
from ms_codegeex.extras.evaluation.sandbox.runner import Command, Sandbox, open_sandbox

__all__ = ["Command", "End", "Execution", "ResourceLimits", "Sandbox", "Verdict", "open_sandbox", "published_verdict"]
