"""Training by several workers: rounds, each a function from one checkpoint to the next.

May import `training` and below. Begin with `rounds`, what is done once a round; `round_worker` is a worker's part.
"""
