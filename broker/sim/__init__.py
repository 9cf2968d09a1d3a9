"""A model of Ollama without I/O, and the two shells around it: `ollama-sim` and the virtual world."""
