"""What a Redis user must be allowed, and no more, to read a ledger, to write to it, or to look after it."""

from __future__ import annotations

import re
from typing import Literal, get_args

from corrigenda.errors import InvalidRequest

Role = Literal["reader", "writer", "keeper"]

_READING = ("hello", "info", "hget", "hmget", "hexists", "hgetall", "hlen", "xrange", "xrevrange", "xread")
_SEARCHING = ("command|info", "vsim", "vcard")
_WRITING = ("evalsha", "script|load", "hset", "hsetnx", "xadd", "wait", "waitaof", "vadd", "vrem")
_KEEPING = ("hdel", "hscan", "config|get", "del")
_BEFORE_WAITAOF = ("config|get",)  # how the server flushes is asked for where it cannot be waited for
_IN_SCRIPT = ("hdel",)  # a script may do what its user may


def acl_rules(ledger: str, role: Role, *, version: tuple[int, ...] = (8, 0)) -> list[str]:
    """Return the rules for ``ACL SETUSER``, without name, password and ``on``.

    Args:
        ledger: The user sees the keys of this ledger and no others.
        role: ``reader`` follows; ``writer`` edits, too; ``keeper`` also migrates and compacts.
        version: Of the server: it refuses names of commands that it does not know.

    Raises:
        InvalidRequest: No such role; or a name with a blank in it, which no rule can express.
    """
    if role not in get_args(Role):
        raise InvalidRequest(f"{role!r} is no role", remedy=f"Roles: {', '.join(get_args(Role))}.")
    if not ledger or re.search(r"[\s\0{}]", ledger, re.ASCII):
        raise InvalidRequest(
            f"no rule can name the ledger {ledger!r}", remedy="Rules take only names without blanks, { and }."
        )
    allowed = [*_READING, *_SEARCHING]
    if role != "reader":
        allowed += [*_WRITING, *_IN_SCRIPT, *_BEFORE_WAITAOF]
    if role == "keeper":
        allowed += _KEEPING
    if version >= (7, 2) and role != "keeper":
        allowed = [name for name in allowed if name not in _BEFORE_WAITAOF]
    known = [name for name in dict.fromkeys(allowed) if _since(name) <= version]
    pattern = "%R~" if role == "reader" else "~"
    escaped = re.sub(r"([*?\[\]\\])", r"\\\1", ledger)  # or it would be a pattern, and others' keys might match
    return ["-@all", f"{pattern}corrigenda:{{{escaped}}}:*", *(f"+{name}" for name in known)]


def _since(name: str) -> tuple[int, ...]:
    if name in ("vsim", "vcard", "vadd", "vrem"):
        return (8, 0)
    return (7, 2) if name == "waitaof" else (7, 0)
