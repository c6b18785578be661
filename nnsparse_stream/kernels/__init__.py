"""The loops that training spends its time in: products at entries, sums of rows, gradients by rows, fused updates.

May import `sparse`. Begin with `operations`, which picks the backend: `cpu` is compiled by Numba, elsewhere torch's own
operations do the work. `row_gradient` is the gradient that goes from here to the optimisers.
"""
