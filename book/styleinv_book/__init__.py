"""What makes the book: build, figures, claims, viewer of the reference runs, Sphinx extension."""
