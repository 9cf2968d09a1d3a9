"""WHAT EXISTS, WHERE: the catalogue of models, kept up to date by asking the backends."""
