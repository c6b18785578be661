"""A training run: from a request to the steps or the sums of a closed form, judged and saved, and what is told of it.

May import `checkpoints`, `feeding`, `evaluation` and below. Begin with `start.train`; `run.Run` is the loop, and
`steps.Trainer` one step.
"""
