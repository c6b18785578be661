"""What runs the pipelines elsewhere: `engines` starts an engine on this machine; `flink` is one in Kubernetes."""
