"""The sensors of this host: what they say goes to the engine as samples."""
