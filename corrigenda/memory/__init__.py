"""What has been corrected, and which of it concerns a query.

``memory`` is the facade; ``ledger`` the history, which ``sqlite`` or ``redis`` keeps; ``index``, ``mentions`` and
``encoder`` find edits, by meaning and by name; ``scope`` judges which of them a query is about.
"""
