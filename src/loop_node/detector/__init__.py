"""The detector node: inference at the edge."""
