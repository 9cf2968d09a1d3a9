"""The broker: decides which agent's request runs next, on which model, on which server."""
