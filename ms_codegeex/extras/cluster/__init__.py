"""Plans for clusters: time and search, factors from measured steps, rehearsal without devices."""
