"""Many small runs whose losses forecast that of a larger one: the runs, the fitted law, tables and a drawing."""
