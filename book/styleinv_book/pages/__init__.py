"""What single notebooks compute and draw: a module for each notebook that needs one, by its name."""
