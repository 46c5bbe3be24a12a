"""Code that several extras share and the core does not need."""
