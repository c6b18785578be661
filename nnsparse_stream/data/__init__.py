"""Data sets: sparse rows in shards, their manifest, and how blocks of ratings become them.

May import `ratings`, `ids`, `storage`, and `sparse` where rows become tensors (`fold_rows`, the one module with torch).
Begin with `dataset.Dataset` to read one, and `grouping.group_rows` to see how a shard is made.
"""
