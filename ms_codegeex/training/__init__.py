"""Training: one step, its optimizer and schedule, initial weights, and the loop."""
