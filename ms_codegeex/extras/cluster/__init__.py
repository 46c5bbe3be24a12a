"""Plans for clusters: time and search, rehearsal without devices, calibration, forecasts from small runs."""
