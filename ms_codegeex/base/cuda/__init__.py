"""NVIDIA GPUs: the CUDA libraries that MindSpore loads, the driver, and the devices."""
