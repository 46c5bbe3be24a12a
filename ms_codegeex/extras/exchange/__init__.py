"""Files of other programs, and reports about them."""
