"""The Models service on the wire, put together from its parts: each translates for a service."""

from __future__ import annotations

from broker.api.grpc.list_frames import ListFrames
from broker.api.grpc.list_pages import ListPages
from broker.api.grpc.model_accounts import ModelAccounts
from broker.api.grpc.model_changes import ModelChanges
from broker.api.grpc.model_listing import ModelListing
from broker.api.grpc.model_resolution import ModelResolution
from broker.services.model_accounts import ModelAccountsService
from broker.services.model_changes import ModelChangesService
from broker.services.models import ModelsService
from broker_client.pb.broker.v1 import models_pb2_grpc


class ModelsServicer(
    ModelListing, ModelResolution, ModelAccounts, ModelChanges, models_pb2_grpc.ModelsServicer
):
    """`listing` knows the models, `accounts` what they are made of and who used them, `changes`
    what may be done with them."""

    def __init__(
        self,
        listing: ModelsService,
        accounts: ModelAccountsService,
        changes: ModelChangesService,
    ) -> None:
        self._listing = listing
        self._pages = ListPages()
        self._frames = ListFrames(listing, self._pages)
        self._accounts = accounts
        self._changes = changes
