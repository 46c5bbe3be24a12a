"""What a run costs, from its configuration alone: memory, FLOPs, communication. Figures of accelerators."""
