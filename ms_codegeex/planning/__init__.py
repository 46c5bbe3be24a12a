"""What a run costs, from its configuration alone: memory, FLOPs, communication, time, and the search for a plan."""
