"""Everything that is proved and measured on a machine with a GPU: python -m benchmarks.gpu."""
