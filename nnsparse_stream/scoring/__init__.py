"""A trained model put to use: predictions at pairs, top-K lists and their reasons, and blends of several models.

May import `training` (a model is loaded from its checkpoint), `evaluation` and below. Begin with `tables`.
"""
