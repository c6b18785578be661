"""Rating logs: formats, records, folds, times; from files of any kind to blocks of ratings.

May import `ids` and `storage`; never torch. Begin with `input_plan.plan_inputs`, which looks at every file before any
work starts, and `reading.read_split`, which reads a piece of one.
"""
