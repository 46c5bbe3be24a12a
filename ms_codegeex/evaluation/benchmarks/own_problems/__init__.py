"""Problems in languages of your own: HumanEval-X's format, with a description of each language."""
