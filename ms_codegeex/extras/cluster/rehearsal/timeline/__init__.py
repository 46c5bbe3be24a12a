"""The timeline of a training step, simulated from compiled graphs."""
