"""Programs: prepare, train, evaluate, score, demo and doctor, each `python -m nnsparse_stream.pipelines.<name>` too."""
