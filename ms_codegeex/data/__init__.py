"""From source files to batches: languages, tokenizers, corpus preparation, indexed datasets, sample order."""
