"""From a sample to a verdict."""
