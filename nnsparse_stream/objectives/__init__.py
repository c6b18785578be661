"""What models are trained for: objectives, their recipes, and the presets that name good ones.

May import `nn`, `data` and below. Begin with `objective.Objective`; `objectives.OBJECTIVES` names them all, `recipe` is
what their recipes share, `growth`, `warm_recipe` and `worker_recipe` fit one to the device, the log and the workers.
"""
