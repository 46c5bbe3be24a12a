"""HumanEval-X the other way round: the description of a function from its code."""
