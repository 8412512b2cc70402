"""Nouns on the wire and on disk: attrs classes, validated when they come in, without behaviour beyond that."""
