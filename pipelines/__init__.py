"""Programs: prepare, train, evaluate, score, demo and doctor, each also `python -m nnsparse_stream.pipelines.<name>`."""
