"""The shop in Django, with sessions in cookies and its protection from forged requests."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import (
    FileResponse,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.middleware.csrf import get_token
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import condition

from tests.http.frameworks.parts import Say, Stream, digest, fail
from tests.http.serving import App

SETTINGS = {
    "ALLOWED_HOSTS": ["*"],
    "DATA_UPLOAD_MAX_NUMBER_FIELDS": 20_000,
    "MIDDLEWARE": [
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
    "ROOT_URLCONF": __name__,
    "SECRET_KEY": "only for this test",
    "SESSION_ENGINE": "django.contrib.sessions.backends.signed_cookies",
}

urlpatterns: list[Any] = []


def text(body: str) -> Any:
    return HttpResponse(body, content_type="text/plain")


def item(request: Any, number: int) -> Any:
    return JsonResponse({"id": number, "q": request.GET.get("q")})


def login(request: Any) -> Any:
    """GET: the token that a form would have in it."""
    if request.method != "POST":
        return text(get_token(request))
    request.session["name"] = request.POST["name"]
    return HttpResponseRedirect("/me")


def form(request: Any) -> Any:
    values = list(request.POST.values())
    return JsonResponse({"count": len(values), "last": values[-1]})


def upload(request: Any) -> Any:
    file = request.FILES["file"]
    where = {"where": type(file).__name__}
    return JsonResponse({"name": file.name, "note": request.POST["note"], **digest(file), **where})


def body(request: Any) -> Any:
    return JsonResponse(digest(request))


def make(say: Say, folder: Path) -> App:
    settings.configure(**SETTINGS)

    def stream(request: Any) -> Any:
        return StreamingHttpResponse(Stream(say), content_type="text/plain")

    def endless(request: Any) -> Any:
        return StreamingHttpResponse(Stream(say, endless=True), content_type="text/plain")

    def file(request: Any, name: str) -> Any:
        return FileResponse((folder / name).open("rb"))

    def etag(request: Any, name: str) -> str:
        return f'"{(folder / name).stat().st_mtime_ns}"'

    urlpatterns[:] = [
        path("", lambda request: text("hello")),
        path("items/<int:number>", item),
        path("old", lambda request: HttpResponseRedirect("/items/7?q=old")),
        path("login", login),
        path("me", lambda request: text(request.session["name"])),
        path("form", csrf_exempt(form)),
        path("upload", csrf_exempt(upload)),
        path("body", csrf_exempt(body)),
        path("stream", stream),
        path("endless", endless),
        path("files/<name>", condition(etag_func=etag)(file)),
        path("empty", lambda request: HttpResponse(status=204)),
        path("fail", lambda request: fail()),
    ]
    wsgi: App = get_wsgi_application()
    return wsgi
