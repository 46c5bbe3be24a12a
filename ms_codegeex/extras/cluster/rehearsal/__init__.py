"""Parallel plans tried out without a cluster: compiled by MindSpore under simulation, executed on CPU processes."""
