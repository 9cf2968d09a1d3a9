"""The wire: gRPC for agents and operators, HTTP for health and metrics."""
