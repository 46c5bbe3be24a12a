"""Before and at the first run on devices: each kernel against NumPy, and a ladder of small runs."""
