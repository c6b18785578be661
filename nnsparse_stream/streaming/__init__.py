"""Scores that follow events without end: what is known of the rows, the model that is the newest, what is written.

Nothing here knows Beam: the local loop and the engines' job call the same functions.

May import `scoring` (rows are scored as in batches) and below. Begin with `source` and `shard_state`.
"""
