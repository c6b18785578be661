"""Many runs side by side: the file of a grid, its members, and how they compare.

May import `training` and below. Begin with `grid.read_grid`; `grid_members` trains one and completes them all.
"""
