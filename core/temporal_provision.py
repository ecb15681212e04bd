"""Creates what Temporal needs before any worker starts: our namespace with its retention, and the search attributes.

Idempotent. Never deletes anything.
"""

from __future__ import annotations

import asyncio
import time

from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeNamespaceResponse,
    RegisterNamespaceRequest,
    UpdateNamespaceRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from core.config import Settings
from core.errors import StopTheStart

RETENTION_S = 30 * 86_400
"""How long a closed order's workflow can be read, and how long its id refuses a second start."""

SEARCH_ATTRIBUTES = ("Broker", "StrategyId", "Symbol", "Side", "OrderStatus", "BrokerOrderId")

TIMEOUT_S = 30.0


async def provision(settings: Settings) -> None:
    """Make namespace and search attributes what they should be, and wait until the server acts on them.

    Raises:
        StopTheStart: the server refuses, or does not take them in within 30 s.
    """
    client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
    try:
        await _namespace(client, settings.temporal_namespace)
        await _usable(client, "", settings.temporal_namespace)
        await _search_attributes(client, settings.temporal_namespace)
        await _usable(client, f"{SEARCH_ATTRIBUTES[-1]} = 'none'", settings.temporal_namespace)
    except RPCError as error:
        raise StopTheStart(
            f"Temporal at {settings.temporal_address} refused to set up namespace "
            f"{settings.temporal_namespace}: {error.message}"
        ) from error


async def _namespace(client: Client, name: str) -> None:
    service = client.workflow_service
    retention = Duration(seconds=RETENTION_S)
    found = await _describe(client, name)
    if found is not None:
        if found.config.workflow_execution_retention_ttl.seconds < RETENTION_S:
            config = NamespaceConfig(workflow_execution_retention_ttl=retention)
            await service.update_namespace(UpdateNamespaceRequest(namespace=name, config=config))
        return
    try:
        await service.register_namespace(
            RegisterNamespaceRequest(
                namespace=name, description="One workflow an order.", workflow_execution_retention_period=retention
            )
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


async def has_namespace(settings: Settings) -> bool:
    """Whether anything of ours was ever there."""
    client = await Client.connect(settings.temporal_address, namespace=settings.temporal_namespace)
    return await _describe(client, settings.temporal_namespace) is not None


async def _describe(client: Client, name: str) -> DescribeNamespaceResponse | None:
    try:
        return await client.workflow_service.describe_namespace(DescribeNamespaceRequest(namespace=name))
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise


async def _search_attributes(client: Client, name: str) -> None:
    there = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace=name))
    missing = [key for key in SEARCH_ATTRIBUTES if key not in there.custom_attributes]
    if not missing:
        return
    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    try:
        await client.operator_service.add_search_attributes(
            AddSearchAttributesRequest(namespace=name, search_attributes=dict.fromkeys(missing, keyword))
        )
    except RPCError as error:
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise


async def _usable(client: Client, query: str, name: str) -> None:
    """The server reads namespaces and attributes into its caches after a moment: wait until a query by them works."""
    end = time.monotonic() + TIMEOUT_S
    while True:
        try:
            await client.count_workflows(query)
            return
        except RPCError as error:
            if time.monotonic() > end:
                raise StopTheStart(
                    f"Temporal does not serve namespace {name} after {TIMEOUT_S:.0f} s: {error}"
                ) from error
        await asyncio.sleep(0.1)
