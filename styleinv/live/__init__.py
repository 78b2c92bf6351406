"""The live page: watch an inversion, pause it, compare, save."""

# The name of an environment variable: what builds a static book sets it, and pages that would
# otherwise be live show a snapshot of themselves.
STATIC = "STYLEINV_STATIC"
