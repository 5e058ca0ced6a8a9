"""What a computation runs on: device, precision, processes, and the critic's input gradient under autocast."""
