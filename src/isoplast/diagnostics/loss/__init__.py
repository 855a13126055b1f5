"""The loss around the weights: curvature, gradients, what a step changes."""
