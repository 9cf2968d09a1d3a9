"""gRPC: one servicer per proto file; handlers translate, services decide."""
