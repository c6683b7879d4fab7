"""Models that run elsewhere: graphs for other runtimes, weights as safetensors, and what goes with them."""
