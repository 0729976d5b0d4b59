"""What happens in a forward pass: penalized layers, their operators, samples, and the loss."""
