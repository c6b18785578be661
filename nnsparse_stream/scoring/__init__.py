"""A trained model put to use: predictions at pairs, top-K lists and their reasons, and blends of several models.

May import `checkpoints` (a model is loaded from its own), `evaluation` and below. Begin with `tables`.
"""
