"""`--devices N`: one model over several processes, each with a share of every layer."""
