"""Draw samples: recipes, model samplers (our engine or a server), and samples from other programs' files."""
