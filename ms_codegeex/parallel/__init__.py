"""Where parameters lie on a mesh of devices, and how a built network is partitioned over it."""
