"""What everything above shares: device, precision, processes, random numbers, gradients by inputs, the words of errors."""
