"""A model of Ollama without I/O, and its two shells: `ollama-sim` and the virtual world."""
