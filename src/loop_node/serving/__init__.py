"""What every node's HTTP side shares: the app and its error answers, health, the API page, the server itself."""
