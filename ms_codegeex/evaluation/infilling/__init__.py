"""How well a model fills in a middle that was removed from a text."""
