"""Google Cloud Storage for tests: an emulator from PyPI, with the one precondition that it lacks.

    python tests/gcs_server.py PORT

Uploads with `ifGenerationMatch=0` return 412 if an object of that name exists, as in the real service.
"""

import sys
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_insert = objects.insert


def insert(request: Any, response: Any, storage: Any) -> None:
    """The emulator's upload, refused if it must create and the object exists. One request at a time."""
    name = request.query.get("name", [None])[0] or request.data["meta"]["name"]
    if request.query.get("ifGenerationMatch") == ["0"]:
        try:
            storage.get_file_obj(request.params["bucket_name"], name)
        except NotFound:
            pass
        else:
            response.status = HTTPStatus.PRECONDITION_FAILED
            response.json({"error": {"code": 412, "message": "conditionNotMet"}})
            return
    _insert(request, response, storage)


if __name__ == "__main__":
    objects.insert = insert  # before the server's table of handlers is made
    from gcp_storage_emulator.server import create_server

    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True).run()
