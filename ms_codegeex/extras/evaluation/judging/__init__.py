"""Judge samples: run Python programs, compare their results, check reference solutions, give verdicts."""
