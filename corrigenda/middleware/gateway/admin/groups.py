"""The operations of the admin API, by name: every one has its method in one of the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

from corrigenda.middleware.gateway.admin.call import Handler
from corrigenda.middleware.gateway.admin.edits import Edits
from corrigenda.middleware.gateway.admin.history import History
from corrigenda.middleware.gateway.admin.keyring import KeyRing
from corrigenda.middleware.gateway.admin.looking import Looking
from corrigenda.middleware.gateway.admin.runs import Runs
from corrigenda.middleware.gateway.admin.table import OPERATIONS

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway


def handlers(gateway: Gateway) -> dict[str, Handler]:
    """Return what does each operation of :data:`OPERATIONS`; run in threads."""
    groups = (Edits(gateway), History(gateway), Looking(gateway), Runs(gateway), KeyRing(gateway))
    return {
        operation.name: next(getattr(group, operation.name) for group in groups if hasattr(group, operation.name))
        for operation in OPERATIONS
    }
