"""How much of what was typed in a git history a model would have suggested."""
