"""Meshes of devices, how parameters lie on them, rank tables, cost plans. Imports no engine until a graph is built."""
