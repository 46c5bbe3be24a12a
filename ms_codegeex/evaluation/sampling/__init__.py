"""Samples from a model: recipes, engines and servers, and when a text is over."""
