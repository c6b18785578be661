"""The reference: torch operations, on any device and for any dtype, which the other backends must equal."""
