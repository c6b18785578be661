"""What a model is made of: layers, criteria, corruption, optimisers; and the kinds of model themselves.

May import `sparse` and `kernels`, no file and no data set. Begin with `model.Model`, what every kind can do;
`models.MODELS` names the kinds.
"""
