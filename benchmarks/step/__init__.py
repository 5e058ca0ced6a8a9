"""A training step of fastgan against its peers: python -m benchmarks.step."""
