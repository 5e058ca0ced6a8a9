"""Benchmarks: a correctness gate, then interleaved timing of fastgan and its peers; rows go to benchmarks/results."""
