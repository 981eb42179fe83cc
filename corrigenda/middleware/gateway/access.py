"""Access: which key a request carries, and what that lets it do. In doubt, nothing."""

from __future__ import annotations

from starlette.types import Scope

from corrigenda.middleware.gateway.keys import Key, Keys, Role
from corrigenda.middleware.gateway.limits import Buckets
from corrigenda.middleware.gateway.replies import Refusal
from corrigenda.middleware.gateway.settings import Settings

KEY_HEADER = b"x-corrigenda-key"
NAMESPACE_HEADER = b"x-corrigenda-namespace"


class Access:
    """Checks keys.

    Args:
        keys: Where they are kept; without, nobody may do anything that needs one.
        settings: Rates, the default namespace, whether clients of ``/v1`` need a key.
    """

    def __init__(self, keys: Keys | None, settings: Settings) -> None:
        self.keys, self.settings = keys, settings
        self._rates = Buckets(settings.rate, settings.burst)
        self._strangers = Buckets(1.0, 20)

    def namespace(self, scope: Scope) -> str:
        """Return whose edits apply to a request to ``/v1``.

        Raises:
            Refusal: 401 without a valid key where one is needed, 403 for a namespace that the key is not for.
        """
        key_text = name = None
        for header, value in scope["headers"]:
            if header == KEY_HEADER:
                key_text = value.decode("latin-1")
            elif header == NAMESPACE_HEADER:
                name = value.decode("latin-1")
        if name is None and key_text is None and not self.settings.require_key:
            return self.settings.namespace
        key = self._valid(key_text, scope)
        wanted = name if name is not None else self.settings.namespace
        if not key.may("reader", wanted):
            raise Refusal(403, "wrong_namespace", "the key is not for this namespace")
        return wanted

    def admin(self, scope: Scope) -> Key:
        """Return the key of a request to the admin API, sent as ``Authorization: Bearer ...``.

        Raises:
            Refusal: 401 without a valid key, 429 beyond the rate.
        """
        text = None
        for header, value in scope["headers"]:
            if header == b"authorization":
                kind, _, rest = value.decode("latin-1").partition(" ")
                text = rest.strip() if kind.lower() == "bearer" else None
        key = self._valid(text, scope)
        if wait := self._rates.wait(key.id):
            raise Refusal(429, "too_many_requests", "too many requests with this key", retry_after=wait)
        return key

    @staticmethod
    def require(key: Key, role: Role, namespace: str | None) -> None:
        """Raise :class:`Refusal` (403) unless ``key`` has ``role`` in ``namespace`` (everywhere, for ``None``)."""
        if not key.may(role, namespace):
            where = "everywhere" if namespace is None else "in this namespace"
            raise Refusal(403, "forbidden", f"this needs a key with the role {role} {where}")

    def _valid(self, text: str | None, scope: Scope) -> Key:
        key = self.keys.find(text) if text and self.keys is not None else None
        if key is None:
            client = scope.get("client")
            # Each wrong guess costs; who keeps guessing waits.
            if wait := self._strangers.wait(client[0] if client else ""):
                raise Refusal(429, "too_many_requests", "too many requests without a valid key", retry_after=wait)
            raise Refusal(401, "no_valid_key", "this needs a valid key of the gateway")
        return key
