"""How well a model fills in a middle that was taken out of a text."""
