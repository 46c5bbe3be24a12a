"""The placement of parameters on a mesh of devices, and the partitioning of a built network over it."""
