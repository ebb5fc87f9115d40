"""What a Python source can serve, seen from its syntax. Nothing of it is imported or run."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

WSGI, ASGI = "WSGI", "ASGI"

# what makes an app when it is called: its full name, the framework's name, the kind of app
MAKERS = {
    "flask.Flask": ("Flask", WSGI),
    "apiflask.APIFlask": ("APIFlask", WSGI),
    "flask_openapi3.OpenAPI": ("Flask", WSGI),
    "connexion.FlaskApp": ("Connexion", WSGI),
    "connexion.AsyncApp": ("Connexion", ASGI),
    "django.core.wsgi.get_wsgi_application": ("Django", WSGI),
    "django.core.asgi.get_asgi_application": ("Django", ASGI),
    "channels.routing.ProtocolTypeRouter": ("Django Channels", ASGI),
    "fastapi.FastAPI": ("FastAPI", ASGI),
    "fastapi.applications.FastAPI": ("FastAPI", ASGI),
    "starlette.applications.Starlette": ("Starlette", ASGI),
    "litestar.Litestar": ("Litestar", ASGI),
    "quart.Quart": ("Quart", ASGI),
    "blacksheep.Application": ("BlackSheep", ASGI),
    "falcon.App": ("Falcon", WSGI),
    "falcon.API": ("Falcon", WSGI),
    "falcon.asgi.App": ("Falcon", ASGI),
    "bottle.Bottle": ("Bottle", WSGI),
    "bottle.default_app": ("Bottle", WSGI),
    "dash.Dash": ("Dash", WSGI),
    "socketio.WSGIApp": ("Socket.IO", WSGI),
    "socketio.ASGIApp": ("Socket.IO", ASGI),
}
ATTRIBUTES = {"Dash": ".server"}  # the app is not the object itself, but this of it
METHODS = {"make_wsgi_app": ("Pyramid", WSGI)}  # of an object that cannot be told from here
USUAL = ("app", "application")  # what an app is called where nothing else tells that it is one
FACTORIES = ("create_app", "make_app", "create_application", "make_application", "get_app")
PLAIN = {  # a function that is an app by its arguments
    ("environ", "start_response"): WSGI,
    ("env", "start_response"): WSGI,
    ("scope", "receive", "send"): ASGI,
}


@dataclass(frozen=True, slots=True)
class EntryPoint:
    """Something in a module that can be served. `call` is what follows "module:".

    `kind` and `framework` are empty where another module has to tell.
    """

    call: str
    kind: str
    framework: str
    line: int

    @property
    def factory(self) -> bool:
        return self.call.endswith("()")


def entry_points(source: str) -> list[EntryPoint]:
    """The apps and factories of a module, the last binding of each name. Raises SyntaxError."""
    tree = ast.parse(source)
    names = imported_names(tree)
    found: dict[str, EntryPoint] = {}
    for node in statements(tree.body):
        for one in _of(node, names, found):
            found[one.call.partition(".")[0]] = one
    return list(found.values())


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run when the module is imported: also those in if, try and with."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.If | ast.Try | ast.With):
            for field in ("body", "orelse", "finalbody"):
                yield from statements(getattr(node, field, []))


def imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, in full; names of this project begin with a dot."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                names[alias.asname or alias.name] = f"{module}.{alias.name}"
    return names


def imports_of(source: str) -> set[str]:
    """The first part of each module that is imported by its full name. Raises SyntaxError."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found


def text_of(source: str, name: str) -> str:
    """The text that a module binds to a name, or puts into os.environ under it; or nothing.

    Raises SyntaxError.
    """
    for node in ast.walk(ast.parse(source)):
        value: ast.expr | None = None
        if isinstance(node, ast.Assign) and any(_is_target(one, name) for one in node.targets):
            value = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "os.environ.setdefault",
            "environ.setdefault",
            "os.putenv",
        ):
            key, *rest = node.args or [ast.Constant(None)]
            value = rest[0] if rest and _constant(key) == name else None
        if text := _constant(value):
            return text
    return ""


def _is_target(target: ast.expr, name: str) -> bool:
    if isinstance(target, ast.Subscript):  # os.environ["NAME"] = ...
        return _constant(target.slice) == name
    return isinstance(target, ast.Name) and target.id == name


def _constant(node: ast.expr | None) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _of(
    node: ast.stmt, names: dict[str, str], found: dict[str, EntryPoint]
) -> Iterator[EntryPoint]:
    """Yield what a statement binds that can be served."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from _function(node, names)
        return
    if isinstance(node, ast.ImportFrom):
        for bound in (alias.asname or alias.name for alias in node.names):
            if bound in USUAL:
                yield EntryPoint(bound, "", "", node.lineno)
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets, value = node.targets, node.value
    elif isinstance(node, ast.AnnAssign) and node.value is not None:
        targets, value = [node.target], node.value
    for target in targets:
        if not isinstance(target, ast.Name):
            continue
        made = _maker(value, names, found)
        if made is None and target.id in USUAL:
            made = _wrapped(value, names, found)
        if made is not None:
            call = target.id + ATTRIBUTES.get(made[0], "")
            yield EntryPoint(call, made[1], made[0], node.lineno)


def _wrapped(
    value: ast.expr, names: dict[str, str], found: dict[str, EntryPoint]
) -> tuple[str, str] | None:
    """(framework, kind) of an app that is wrapped in middleware, or None."""
    while isinstance(value, ast.Call) and value.args:
        value = value.args[0]
        if made := _maker(value, names, found):
            return made
    return None


def _maker(
    value: ast.expr, names: dict[str, str], found: dict[str, EntryPoint]
) -> tuple[str, str] | None:
    """(framework, kind) of the app that an expression is, or None."""
    if isinstance(value, ast.Name) and value.id in found:
        return found[value.id].framework, found[value.id].kind
    if not isinstance(value, ast.Call):
        return None
    path = _path(value.func, names)
    if path in MAKERS:
        return MAKERS[path]
    last = path.rpartition(".")[2]
    if last in METHODS:
        return METHODS[last]
    factory = found.get(f"{path}()")
    if factory is not None:
        return factory.framework, factory.kind
    return ("", "") if last in FACTORIES else None


def _path(function: ast.expr, names: dict[str, str]) -> str:
    """The full name of what is called: "flask.Flask" for `f.Flask` after `import flask as f`."""
    first, dot, rest = ast.unparse(function).partition(".")
    return f"{names.get(first, first)}{dot}{rest}"


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, names: dict[str, str]
) -> Iterator[EntryPoint]:
    arguments = [*node.args.posonlyargs, *node.args.args]
    if kind := PLAIN.get(tuple(argument.arg for argument in arguments)):
        yield EntryPoint(node.name, kind, "", node.lineno)
        return
    needed = len(arguments) > len(node.args.defaults) or None in node.args.kw_defaults
    if needed or isinstance(node, ast.AsyncFunctionDef) or node.name.startswith("_"):
        return
    made = _returned(node, names)
    if made:
        yield EntryPoint(f"{node.name}()", made[1], made[0], node.lineno)


def _returned(node: ast.FunctionDef, names: dict[str, str]) -> tuple[str, str] | None:
    """(framework, kind) of the app that a factory returns, or None where it returns none."""
    local: dict[str, EntryPoint] = {}
    inner = {**names, **imported_names(ast.Module(node.body, []))}
    made = None
    for statement in ast.walk(node):
        if isinstance(statement, ast.stmt) and not isinstance(statement, ast.FunctionDef):
            for one in _of(statement, inner, local):
                local[one.call.partition(".")[0]] = one
    for statement in ast.walk(node):
        if isinstance(statement, ast.Return) and statement.value is not None:
            made = _maker(statement.value, inner, local) or made
            if made is None and node.name in FACTORIES:
                made = _wrapped(statement.value, inner, local)
    return made
