"""What a run would cost in time and memory as a whole, the search for a better plan, generation's speed."""
