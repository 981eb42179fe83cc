"""Keys, managed through the admin API: by admins of all namespaces only, since a key could be for any of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from corrigenda.middleware.gateway.access import Access
from corrigenda.middleware.gateway.admin.call import Call
from corrigenda.middleware.gateway.keys import Keys
from corrigenda.middleware.gateway.replies import Refusal

if TYPE_CHECKING:
    from corrigenda.middleware.gateway.app import Gateway


class KeyRing:
    """The operations on keys; run in threads.

    Args:
        gateway: Whose keys they are.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def list_keys(self, call: Call) -> dict[str, Any]:
        """List the keys, without their secrets."""
        return {"keys": [key.to_dict() for key in self._keys(call).all()]}

    def create_key(self, call: Call) -> dict[str, Any]:
        """Make a key; its text is in the answer, and nowhere else."""
        keys = self._keys(call)
        spaces = call.texts("namespaces", 100, 200)
        key, text = keys.create(call.text("name", 200), call.text("role", 20), spaces)
        return {"key": text, **key.to_dict()}

    def revoke_key(self, call: Call) -> dict[str, Any]:
        """Make a key stop working, at once and for good."""
        keys = self._keys(call)
        if not any(key.id == call.path["key_id"] for key in keys.all()):
            raise Refusal(404, "unknown_key", "there is no such key")
        return keys.revoke(call.path["key_id"]).to_dict()

    def _keys(self, call: Call) -> Keys:
        Access.require(call.key, "admin", None)
        assert self.gateway.keys is not None  # the caller's own key is in there
        return self.gateway.keys
