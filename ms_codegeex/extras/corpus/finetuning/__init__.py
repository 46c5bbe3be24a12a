"""Fine-tuning data: pairs of prompt and answer, as rows of whole examples."""
