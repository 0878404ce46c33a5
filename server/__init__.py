"""How it is reached: the Open Inference Protocol over HTTP and gRPC, settings, metrics and the command line."""
