"""Adapters to servers that run models; each fills the port `core.ports.Backend`."""
