"""A Django site as startproject lays it out: the boot finds what its first request would find."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from prefork_sd.errors import ExitCode
from tests.process.systemd import Systemd

SITE = Path(__file__).with_name("django_site")
PRELOAD = pytest.mark.parametrize("preload", [False, True])


@pytest.fixture
def django(systemd: Systemd) -> Systemd:
    """The service with the site, not started."""
    shutil.copytree(SITE, systemd.site, dirs_exist_ok=True)
    systemd.deploy()  # which nobody imports
    return systemd


def settings(*, preload: bool = False) -> dict[str, Any]:
    return {"app": "storefront.wsgi:application", "preload_app": preload}


def edit(django: Systemd, name: str, old: str, new: str) -> None:
    path = django.site / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@PRELOAD
def test_a_reload_serves_new_views(django: Systemd, preload: bool) -> None:
    django.up(workers=2, **settings(preload=preload))
    assert django.get().version == "1"
    edit(django, "catalog/views.py", 'VERSION = "1"', 'VERSION = "2"')
    assert django.reload().status == 0
    assert {django.get().version for _ in range(6)} == {"2"}
    page = django.get("/order").text
    assert "10: Product 9, 9.90" in page
    assert "csrfmiddlewaretoken" in page


@PRELOAD
def test_views_that_cannot_be_imported_fail_a_reload(django: Systemd, preload: bool) -> None:
    django.up(workers=2, **settings(preload=preload))
    edit(django, "catalog/views.py", "import os\n", "import no_such_module\n")
    done = django.reload()
    assert done.status == 1
    assert 'cannot import the URLconf "storefront.urls": ' in done.text
    assert "No module named 'no_such_module'" in done.text
    assert "catalog/views.py" in done.text
    assert {django.get().version for _ in range(6)} == {"1"}


def test_a_start_with_a_broken_urlconf(django: Systemd) -> None:
    edit(django, "storefront/urls.py", "views.index", "views.indes")
    django.start(workers=1, **settings())
    assert django.ended() == ExitCode.APP_LOAD_ERROR
    assert "has no attribute 'indes'" in django.said("STATUS")[-1].fields["STATUS"]


def test_workers_share_no_connection_to_a_database(django: Systemd) -> None:
    query = "from django.db import connection\nconnection.ensure_connection()\n"
    tell = 'HttpResponse(f"{VERSION} {os.getpid()} {OPENED} {connection.connection is None}")'
    edit(django, "catalog/views.py", "VERSION =", f"{query}OPENED = True\nVERSION =")
    edit(django, "catalog/views.py", 'HttpResponse(f"{VERSION} {os.getpid()}")', tell)
    django.up(workers=1, **settings(preload=True))
    assert django.get().text.endswith("True True")
