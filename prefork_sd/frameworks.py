"""What a framework leaves for its first request, done with the import of the app instead.

So views that cannot be imported fail the boot, with the reason, and not each request; and what a
mold imports is shared by its workers.
"""

import sys
from contextlib import suppress
from importlib import import_module

from prefork_sd.errors import AppImportError
from prefork_sd.imports import said, trimmed


def complete() -> None:
    """Finish the import of an app that has just been imported. Raises AppImportError."""
    if "django.urls" in sys.modules:
        _complete_django()


def _complete_django() -> None:
    """Import the URLconf with all the views, and what templates need.

    Connections to databases that this opened are closed, for workers must not share any.
    """
    settings = import_module("django.conf").settings
    if not (settings.configured and import_module("django.apps").apps.ready):
        return
    if urls := getattr(settings, "ROOT_URLCONF", ""):
        try:
            _ = import_module("django.urls").get_resolver().reverse_dict  # follows every include()
        except (Exception, SystemExit) as error:
            text = f'cannot import the URLconf "{urls}": {said(error)}'
            raise AppImportError(text, trimmed(error)) from error
    with suppress(Exception):  # the affair of the pages that have templates
        import_module("django.template").engines.all()
    import_module("django.db").connections.close_all()
