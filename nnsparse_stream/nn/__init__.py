"""What a model is made of: layers, criteria, corruption, optimisers; and the autoencoder itself.

May import `sparse` and `kernels`, no file and no data set. Begin with `autoencoder.RatingAutoencoder`.
"""
