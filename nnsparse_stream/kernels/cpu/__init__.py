"""The backend of the CPU: loops that Numba compiles for float32 and float64."""
