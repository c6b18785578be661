"""Programs: prepare, train, evaluate, score, demo and doctor, each also `python -m pipelines.<name>`."""
