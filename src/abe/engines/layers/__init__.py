"""Where inside a model: layers found, their grids located, methods run there."""
