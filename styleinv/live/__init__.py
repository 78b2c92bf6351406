"""The live page: watch an inversion, pause it, compare, save."""
