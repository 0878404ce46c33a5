"""Example models, real and built on the spot, and the demonstration that runs them."""
