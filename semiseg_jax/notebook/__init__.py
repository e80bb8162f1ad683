"""Tools for notebooks: a canvas on which people draw labels, and the dataset folder that it fills."""
