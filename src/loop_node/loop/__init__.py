"""All talk to a Learning Loop: REST, downloads, and what is said when it cannot be reached."""
