"""A program that runs apart from the package, with limits; nothing here is imported."""
