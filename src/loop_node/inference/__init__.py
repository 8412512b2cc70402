"""Pixels to detections: where models come from, how they run, what their numbers mean."""
