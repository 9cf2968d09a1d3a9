"""The Models service on the wire, put together from its parts: each translates for a service."""

from __future__ import annotations

from broker.api.grpc.model_listing import ModelListing
from broker.services.models import ModelsService
from broker_client.pb.broker.v1 import models_pb2_grpc


class ModelsServicer(ModelListing, models_pb2_grpc.ModelsServicer):
    """`listing` knows the models."""

    def __init__(self, listing: ModelsService) -> None:
        self._listing = listing
