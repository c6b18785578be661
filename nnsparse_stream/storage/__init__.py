"""Files on any fsspec URL: read with retries and checks, written whole or not at all.

May import `errors` alone. Begin with `files`; `output_directory` makes a directory of files one transaction.
"""
