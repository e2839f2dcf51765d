"""Report the mistakes in cluster manifests, offline.

A file is a configuration of `ray up`, a CloudFormation template, or Kubernetes manifests. Each is checked
against the schema of its reader (Ray and EC2 or Compute Engine; CloudFormation; KubeRay; Kubernetes), and
then by our own checks of what those let pass.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import yaml
from botocore.validate import ParamValidator
from click import ClickException
from ray.serve.schema import ServeDeploySchema

from vitascope.cluster import ray_private
from vitascope.deploy import checks, pods
from vitascope.deploy.checks import Finding, Manifest
from vitascope.errors import Mistake
from vitascope.files import packaged
from vitascope.wording import short

BASE = packaged("cluster")
"""The base manifests."""
KUBERNETES = "1.34"
"""The oldest Kubernetes that the manifests are for."""
_OF_THE_PROVIDER = {"SubnetIds"}  # keys of node_config that Ray takes for itself
_REFUSED_BY_RAY = (ValueError, RuntimeError, AssertionError, KeyError, NotImplementedError, ClickException)


@dataclass(frozen=True)
class Problem:
    """A mistake: what was got, what was expected, and what to do, with its position in the file."""

    file: str
    where: str
    message: str

    def __str__(self) -> str:
        return ": ".join(filter(None, (self.file, self.where, self.message)))


def validate(files: list[str]) -> list[Problem]:
    """Every problem of the YAML `files`; none means that their readers accept them and that they are closed.

    Raises:
        Mistake: a package that holds a schema is not installed, naming the extra that brings it.
    """
    return [Problem(file, *finding) for file in files for finding in _in_file(Path(file))]


def documents(path: Path) -> list[Manifest]:
    """The YAML documents of a file, no part of them shared.

    Raises:
        Mistake: the file does not exist, or is not YAML of mappings.
    """
    try:
        parts = [part for part in yaml.safe_load_all(path.read_text()) if part is not None]
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except yaml.YAMLError as error:
        raise Mistake(f"not valid YAML: {error}") from None
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise Mistake("expected YAML mappings, got something else or nothing")
    unshared: list[Manifest] = json.loads(json.dumps(parts, default=str))
    return unshared


def _in_file(path: Path) -> Iterator[Finding]:
    try:
        parts = documents(path)
    except ValueError as error:
        yield "", str(error)
        return
    for part in parts:
        yield from list(checks.no_empty(part)) or _in_part(part)
        yield from checks.no_secret(part)


def _in_part(part: Manifest) -> Iterator[Finding]:
    if "available_node_types" in part or "provider" in part:
        yield from list(_by_ray(part)) or _ray_up(part)  # our checks rely on the shape that schemas ask for
    elif "AWSTemplateFormatVersion" in part:
        yield from _stack(part)
    elif isinstance(part.get("apiVersion"), str) and isinstance(part.get("kind"), str):
        metadata = part.get("metadata")
        name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
        check = _kuberay if part["apiVersion"] == "ray.io/v1" else _kubernetes
        yield from ((f"{part['kind']}/{name} {at}".strip(), message) for at, message in check(part))
    else:
        yield "", "expected a `ray up` configuration, a CloudFormation template, or apiVersion and kind"


def _by_ray(config: Manifest) -> Iterator[Finding]:
    """Ray's own validation, before Ray fills in defaults, which takes the shape for granted, and after."""
    try:
        defaults = {"cluster_synced_files": [], "max_workers": sys.maxsize}
        ray_private.check_autoscaler_config(defaults | config, filled_in=False)
        ray_private.check_autoscaler_config(json.loads(json.dumps(config)), filled_in=True)
    except jsonschema.ValidationError as error:
        yield _of_schema(error)
    except _REFUSED_BY_RAY as error:
        yield "", f"Ray refuses it: {error}"


def _ray_up(config: Manifest) -> Iterator[Finding]:
    cloud = config["provider"]["type"]
    check = {"aws": _by_ec2, "gcp": _by_compute_engine}.get(cloud)
    if not check:
        yield "provider.type", f"got {cloud!r}, expected aws or gcp"
        return
    wrong = [
        (f"{name}.node_config{at}", message)
        for name, kind in config["available_node_types"].items()
        for at, message in check(kind["node_config"])
    ]
    yield from wrong or checks.ray_up(config)


def _by_ec2(node: Manifest) -> Iterator[Finding]:
    """EC2's parameters of RunInstances, as botocore knows them, with their closed lists of values."""
    shape = _run_instances()
    given = {key: value for key, value in node.items() if key not in _OF_THE_PROVIDER}
    report = ParamValidator().validate({**given, "MinCount": 1, "MaxCount": 1}, shape)
    for line in report.generate_report().splitlines():
        yield "", f"EC2's RunInstances: {line}"
    yield from _outside_enum(shape, given, "")


@cache
def _run_instances() -> Any:
    return botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape


def _outside_enum(shape: Any, value: Any, at: str) -> Iterator[Finding]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from _outside_enum(shape.members[key], value[key], f"{at}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _outside_enum(shape.member, item, f"{at}[{index}]")
    elif getattr(shape, "enum", None) and isinstance(value, str) and value not in shape.enum:
        yield at, checks.not_among(value, shape.enum)


def _by_compute_engine(node: Manifest) -> Iterator[Finding]:
    """The Instance of Compute Engine's API, as Google's client carries its description."""
    return (_of_schema(error, "$") for error in _instance().iter_errors(node))


@cache
def _instance() -> jsonschema.Draft202012Validator:
    package = _needed("googleapiclient", "google-api-python-client")
    folder = Path(package.__file__).parent / "discovery_cache" / "documents"
    schemas = json.loads((folder / "compute.v1.json").read_text())["schemas"]
    closed = {name: _closed(schema) for name, schema in schemas.items()}
    return jsonschema.Draft202012Validator({"$ref": "#/$defs/Instance", "$defs": closed})


def _closed(schema: Manifest) -> Manifest:
    """A schema of a discovery document as JSON schema that refuses unknown keys and other types."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kept: Manifest = {key: schema[key] for key in ("type", "enum") if key in schema}
    if schema.get("format") in ("int64", "uint64"):
        kept["type"] = ["string", "integer"]
    if "properties" in schema:
        kept["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        kept["additionalProperties"] = False
    return kept | {key: _closed(schema[key]) for key in ("items", "additionalProperties") if key in schema}


def _stack(template: Manifest) -> Iterator[Finding]:
    api = _needed("cfnlint.api", "cfn-lint")
    for match in api.lint(json.dumps(template)):
        yield ".".join(map(str, match.path or [])), f"CloudFormation: {match.message}"
    yield from checks.stack(template)


def _kuberay(part: Manifest) -> Iterator[Finding]:
    schema = BASE / "kuberay" / "schemas" / f"{part['kind']}.json"
    if not schema.is_file():
        yield "kind", checks.not_among(part["kind"], ["RayCluster", "RayJob", "RayService"])
        return
    errors = jsonschema.Draft202012Validator(json.loads(schema.read_text())).iter_errors(part)
    wrong = [_of_schema(error) for error in errors]
    yield from wrong or pods.kuberay(part)
    if not wrong and part["kind"] == "RayService" and "spec" in part:
        yield from _by_serve(part["spec"].get("serveConfigV2", ""))


def _kubernetes(part: Manifest) -> Iterator[Finding]:
    package = _needed("kubernetes_validate", "kubernetes-validate")
    try:
        package.validate(part, KUBERNETES, strict=True)
    except package.ValidationError as error:
        yield _of_schema(error)
    except package.SchemaNotFoundError as error:
        yield "kind", f"{error.message}; expected one of Kubernetes' own kinds or of KubeRay's"
    else:
        yield from pods.kubernetes(part)


def _by_serve(config: str) -> Iterator[Finding]:
    try:
        ServeDeploySchema.model_validate(yaml.safe_load(config) or {})
    except (yaml.YAMLError, ValueError) as error:
        yield "spec.serveConfigV2", f"Ray Serve refuses it: {error}"


def _of_schema(error: jsonschema.ValidationError, root: str = "$.") -> Finding:
    """The position and message of a schema's error, the message short enough to read."""
    at, message = error.json_path.removeprefix(root), short(error.message, 300)
    schema: Any = error.schema
    known = schema.get("properties") if error.validator == "additionalProperties" else None
    return at, f"{message}; known keys: {', '.join(sorted(known))}" if known and len(known) < 60 else message


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise Mistake(
            f"validating this needs the package {package}; install it with: pip install 'vitascope[cluster]'"
        ) from None
