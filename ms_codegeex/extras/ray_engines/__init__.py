"""The work of `prepare --engine ray` and `evaluate --judge-engine ray` on the nodes of a Ray cluster."""
