"""Triton kernels, installed as ``fastgan.kernels``. One module for each stem: sample, linear, loss, penalty, update."""

if __name__ == "kernels":
    raise ImportError("import fastgan.kernels instead: a package named kernels already exists elsewhere")
