"""Many inversions, kept: records, sweeps, clusters, measures and verification."""
