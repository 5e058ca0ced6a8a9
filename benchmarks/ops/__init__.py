"""Benchmarks of single operators, one module for each stem: python -m benchmarks.ops.loss [--quick]."""
