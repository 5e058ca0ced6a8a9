"""The alternating update: `game` says what is played, `autograd` and `closed_form` play it, `cuda_graph` replays it."""
