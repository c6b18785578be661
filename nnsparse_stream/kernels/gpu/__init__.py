"""The backend of GPUs: kernels by Triton, for matrices in float32 and bfloat16."""
