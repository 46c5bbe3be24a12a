"""`prepare --engine ray` and `evaluate --judge-engine ray`: their work on the nodes of a Ray cluster."""
