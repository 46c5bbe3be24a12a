"""Fine-tuning datasets: pairs of prompt and answer, one complete example per row."""
