"""One alternating update: `game` says what is played, `autograd` plays it for any pair of modules."""
