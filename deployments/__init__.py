"""What is running: the model host, its swaps and memory, and the Ray Serve application around it."""
