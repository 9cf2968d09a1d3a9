"""What the operator decides: TOML and the environment in, one typed and checked value out."""
