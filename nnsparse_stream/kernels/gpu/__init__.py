"""The kernels on a GPU, in Triton."""
