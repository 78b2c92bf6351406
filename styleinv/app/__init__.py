"""What readers play with: the static explorer that the book embeds."""
