"""What a device's parts can do, each measured alone: the numbers that a step's budget is made of."""
