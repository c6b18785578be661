"""How good predictions are: errors of a model on a fold, and the baselines that it must beat.

May import `nn`, `data` and below. Begin with `prediction_errors.ErrorSums`: sums that add up over blocks and workers.
"""
