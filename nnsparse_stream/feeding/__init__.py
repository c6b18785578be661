"""From a fold's shards to the steps: the order of its rows, shares of workers, caches, minibatches on the device.

May import `nn`, `data` and below. Begin with `stream`, whose threads read and gather; `order` says which row comes
when.
"""
