"""A training run: objective and recipe, the stream of minibatches, the steps, checkpoints, and what is told of it.

May import `evaluation`, `nn`, `data` and below. Begin with `start.train`; `run.Run` is the loop,
`steps.Trainer` one step, and `objectives.OBJECTIVES` names what models are trained for.
"""
