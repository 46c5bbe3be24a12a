"""Draw samples: recipes, model samplers (our engine or a server), stop rules, and samples from other programs'
files."""
