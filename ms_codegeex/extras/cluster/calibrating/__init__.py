"""Efficiencies, rates and latencies of a cluster, fitted to what a profiler has written during a few steps."""
