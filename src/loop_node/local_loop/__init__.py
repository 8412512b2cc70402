"""The embedded Learning Loop: a Learning Loop for one machine, with a store of its own."""
