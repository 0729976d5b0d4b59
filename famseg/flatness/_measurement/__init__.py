"""Reports of a trained model: flatness per layer, curvature, robustness and history."""
