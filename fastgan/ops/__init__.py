"""The five families of operators: sample, linear, loss, penalty, update."""
