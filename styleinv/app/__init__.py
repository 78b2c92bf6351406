"""What readers play with: the static explorer that the book embeds, and the live page."""

# The name of an environment variable: what builds a static book sets it, and pages that would
# otherwise be live show a snapshot of themselves.
STATIC = "STYLEINV_STATIC"
