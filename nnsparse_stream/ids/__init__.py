"""Ids of users and items: hashes, ranks, and the vocabulary that gives a column id its index.

May import `storage`; never torch. Begin with `vocabulary.Vocabulary`; `vocabulary_parts` orders one that no worker
holds whole, `mapped_lookup` keeps a large one in a file that a machine's processes share.
"""
