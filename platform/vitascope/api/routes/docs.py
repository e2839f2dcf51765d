"""A page that describes the addresses, without scripts."""

from typing import Any

from jinja2 import Environment, PackageLoader

_TEMPLATES = Environment(loader=PackageLoader("vitascope.api"), autoescape=True)


def page(description: dict[str, Any]) -> str:
    """HTML from an OpenAPI description."""
    operations = [
        (method.upper(), path, about)
        for path, methods in description["paths"].items()
        for method, about in methods.items()
    ]
    title = description["info"]["title"]
    return _TEMPLATES.get_template("docs.html").render(title=title, operations=operations)
