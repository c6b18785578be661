"""The loops that training spends its time in: products at entries, sums of rows, gradients by rows, fused updates.

May import `sparse`. Begin with `operations`; `backend` says what a backend does, and `backends` picks one by the
tensors: compiled loops (`cpu`), torch operations (`reference`), Triton (`gpu`).
`row_gradient` is the gradient that goes from here to the optimisers.
"""
