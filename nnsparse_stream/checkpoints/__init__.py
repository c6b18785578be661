"""Checkpoints: a run's state, its model in parts by ranges of columns, and the changes that workers exchange.

May import `objectives` (a state holds a recipe) and below. Begin with `state.CheckpointState`, which a driver reads;
`checkpoint.load_model` reads a model, and `tensor_files` every file of tensors.
"""
