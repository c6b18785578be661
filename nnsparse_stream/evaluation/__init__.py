"""How good a model is: metrics of its predictions and lists on a fold, and the baselines that it must beat.

May import `nn`, `data` and below. Begin with `metrics.METRICS`: the metrics by name, what each is, and how it adds up.
"""
