"""Sparse rows, and what can be done with them: conversions, arithmetic, sorting, growing.

May import torch, Arrow and `errors`; nothing else of this package. Begin with `rows.SparseRows`, the one type of a
block of sparse rows; `original` has the original library's tools under their own names.
"""
