"""Implements `ms-codegeex serve`: a model behind HTTP. The engine runs in a separate process."""
