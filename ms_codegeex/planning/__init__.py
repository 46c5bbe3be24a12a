"""The costs of a run by its configuration alone (memory, FLOPs, communication), and figures of accelerators."""
