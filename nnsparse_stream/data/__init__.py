"""Data sets: sparse rows in shards, their manifest, and how blocks of ratings become them.

May import `ratings`, `ids`, `storage`, and `sparse` where rows become tensors (`fold_rows`, the one module with torch).
Begin with `dataset.Dataset` to read one, `local_run.prepare_here` to see how one is made, step by step, and
`grouping.group_rows` to see how a shard is.
"""
