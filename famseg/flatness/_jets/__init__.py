"""Second derivatives along one direction, carried through the forward pass."""
