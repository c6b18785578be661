"""What runs the pipelines elsewhere: `engines` starts an engine on this machine, for tests and to try one."""
