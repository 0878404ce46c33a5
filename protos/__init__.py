"""The wire format: open_inference.proto and the stubs that `make protos` generates from it."""
