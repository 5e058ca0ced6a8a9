"""What benchmarks share: rows and their circumstances, timings of candidates, CUDA graphs, and compilers."""
