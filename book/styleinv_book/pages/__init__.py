"""What single notebooks compute and draw: a module for each that needs one, by its name."""
