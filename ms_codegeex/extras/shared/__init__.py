"""What several extras share and the core does not need."""
