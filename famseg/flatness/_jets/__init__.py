"""Second derivatives along one direction, propagated through the forward pass (Taylor mode)."""
