"""The admin API, ``/admin/v1``, and the page that uses it."""
