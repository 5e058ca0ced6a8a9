"""The mathematics of a chain of linear layers, without an autograd graph, and the storages that its products come in."""
