"""Say what is wrong with cluster manifests, offline.

A file is a configuration of `ray up`, a CloudFormation template, or Kubernetes manifests. Each goes through
the schema of what reads it (Ray and EC2 or Compute Engine; CloudFormation; KubeRay; Kubernetes), and through
our checks of what those let pass.
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
from ray.serve.schema import ServeDeploySchema

from vitascope.cluster import ray_private
from vitascope.deploy import checks, pods
from vitascope.deploy.checks import Found
from vitascope.errors import Mistake
from vitascope.files import packaged
from vitascope.wording import short

BASE = packaged("cluster")
"""The base manifests."""
KUBERNETES = "1.34"
"""The oldest Kubernetes that the manifests are for."""
_OF_THE_PROVIDER = {"SubnetIds"}  # keys of node_config that Ray takes for itself


@dataclass(frozen=True)
class Problem:
    """A mistake: what was got, what was expected, and what to do, with the place in the file."""

    file: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.where}: {self.message}" if self.where else f"{self.file}: {self.message}"


def validate(files: list[str]) -> list[Problem]:
    """Every problem of the YAML `files`; none means that their readers take them and that they are closed.

    Raises:
        Mistake: a package that holds a schema is not installed, naming the extra that brings it.
    """
    return [Problem(file, *found) for file in files for found in _in_file(Path(file))]


def documents(path: Path) -> list[dict[str, Any]]:
    """The YAML documents of a file, no part of them shared.

    Raises:
        Mistake: there is no such file, or it is not YAML of mappings.
    """
    try:
        parts = [part for part in yaml.safe_load_all(path.read_text()) if part is not None]
    except FileNotFoundError:
        raise Mistake(f"no file {path}") from None
    except yaml.YAMLError as error:
        raise Mistake(f"not valid YAML: {error}") from None
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise Mistake("expected YAML mappings, got something else or nothing")
    unshared: list[dict[str, Any]] = json.loads(json.dumps(parts, default=str))
    return unshared


def _in_file(path: Path) -> Iterator[Found]:
    try:
        parts = documents(path)
    except ValueError as error:
        yield "", str(error)
        return
    for part in parts:
        empty = list(checks.no_empty(part))
        yield from empty or _in_part(part)
        yield from checks.no_secret(part)


def _in_part(part: dict[str, Any]) -> Iterator[Found]:
    if "available_node_types" in part or "provider" in part:
        yield from _ray_up(part)
    elif "AWSTemplateFormatVersion" in part:
        yield from _stack(part)
    elif isinstance(part.get("apiVersion"), str) and isinstance(part.get("kind"), str):
        metadata = part.get("metadata")
        name = metadata.get("name", "?") if isinstance(metadata, dict) else "?"
        for where, message in _kubernetes(part):
            yield f"{part['kind']}/{name} {where}".strip(), message
    else:
        yield "", "expected a `ray up` configuration, a CloudFormation template, or apiVersion and kind"


def _ray_up(config: dict[str, Any]) -> Iterator[Found]:
    wrong = list(_by_ray(config))
    yield from wrong
    if wrong:  # our checks rely on the shape that the schemas ask for
        return
    check = {"aws": _by_ec2, "gcp": _by_compute_engine}.get(config["provider"]["type"])
    if not check:
        yield "provider.type", f"got {config['provider']['type']!r}, expected aws or gcp"
        return
    wrong = [
        (f"{name}.node_config{where}", message)
        for name, kind in config["available_node_types"].items()
        for where, message in check(kind["node_config"])
    ]
    yield from wrong or checks.ray_up(config)


def _by_ray(config: dict[str, Any]) -> Iterator[Found]:
    """Ray's own validation; private, so a test holds on to it.

    Once before Ray fills in its defaults, which takes the shape for granted, and once after.
    """
    try:
        defaults = {"cluster_synced_files": [], "max_workers": sys.maxsize}
        ray_private.check_autoscaler_config(defaults | config, filled_in=False)
        ray_private.check_autoscaler_config(json.loads(json.dumps(config)), filled_in=True)
    except jsonschema.ValidationError as error:
        yield error.json_path.removeprefix("$."), _of_schema(error)
    except (ValueError, RuntimeError, AssertionError, KeyError, NotImplementedError) as error:
        yield "", f"Ray refuses it: {error}"


def _by_ec2(node: dict[str, Any]) -> Iterator[Found]:
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


def _outside_enum(shape: Any, value: Any, where: str) -> Iterator[Found]:
    if shape.type_name == "structure" and isinstance(value, dict):
        for key in value.keys() & shape.members.keys():
            yield from _outside_enum(shape.members[key], value[key], f"{where}.{key}")
    elif shape.type_name == "list" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _outside_enum(shape.member, item, f"{where}[{index}]")
    elif getattr(shape, "enum", None) and isinstance(value, str) and value not in shape.enum:
        yield where, checks.not_among(value, shape.enum)


def _by_compute_engine(node: dict[str, Any]) -> Iterator[Found]:
    """The Instance of Compute Engine's API, as Google's client carries its description."""
    for error in _instance().iter_errors(node):
        yield error.json_path.removeprefix("$"), _of_schema(error)


@cache
def _instance() -> jsonschema.Draft202012Validator:
    package = _needed("googleapiclient", "google-api-python-client")
    folder = Path(package.__file__).parent / "discovery_cache" / "documents"
    schemas = json.loads((folder / "compute.v1.json").read_text())["schemas"]
    closed = {name: _closed(schema) for name, schema in schemas.items()}
    return jsonschema.Draft202012Validator({"$ref": "#/$defs/Instance", "$defs": closed})


def _closed(schema: Any) -> Any:
    """A schema of a discovery document as JSON schema that refuses unknown keys and other types."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kept = {key: schema[key] for key in ("type", "enum") if key in schema}
    if schema.get("format") in ("int64", "uint64"):
        kept["type"] = ["string", "integer"]
    if "items" in schema:
        kept["items"] = _closed(schema["items"])
    if "properties" in schema:
        kept["properties"] = {key: _closed(value) for key, value in schema["properties"].items()}
        kept["additionalProperties"] = False
    if "additionalProperties" in schema:
        kept["additionalProperties"] = _closed(schema["additionalProperties"])
    return kept


def _stack(template: dict[str, Any]) -> Iterator[Found]:
    api = _needed("cfnlint.api", "cfn-lint")
    for match in api.lint(json.dumps(template)):
        yield ".".join(map(str, match.path or [])), f"CloudFormation: {match.message}"
    yield from checks.stack(template)


def _kubernetes(part: dict[str, Any]) -> Iterator[Found]:
    if part["apiVersion"] != "ray.io/v1":
        yield from list(_by_kubernetes(part)) or pods.kubernetes(part)
        return
    schema = BASE / "kuberay" / "schemas" / f"{part['kind']}.json"
    if not schema.is_file():
        yield "kind", checks.not_among(part["kind"], ["RayCluster", "RayJob", "RayService"])
        return
    wrong = list(jsonschema.Draft202012Validator(json.loads(schema.read_text())).iter_errors(part))
    yield from ((error.json_path.removeprefix("$."), _of_schema(error)) for error in wrong)
    if wrong:
        return
    yield from pods.kuberay(part)
    if part["kind"] == "RayService" and "spec" in part:
        yield from _by_serve(part["spec"].get("serveConfigV2", ""))


def _by_kubernetes(part: dict[str, Any]) -> Iterator[Found]:
    package = _needed("kubernetes_validate", "kubernetes-validate")
    try:
        package.validate(part, KUBERNETES, strict=True)
    except package.ValidationError as error:
        yield error.json_path.removeprefix("$."), _of_schema(error)
    except package.SchemaNotFoundError as error:
        yield "kind", f"{error.message}; expected one of Kubernetes' own kinds or of KubeRay's"


def _by_serve(config: str) -> Iterator[Found]:
    try:
        ServeDeploySchema.model_validate(yaml.safe_load(config) or {})
    except (yaml.YAMLError, ValueError) as error:
        yield "spec.serveConfigV2", f"Ray Serve refuses it: {error}"


def _of_schema(error: jsonschema.ValidationError) -> str:
    """What a schema's error says, short enough to read."""
    message = short(error.message, 300)
    schema: Any = error.schema
    known = schema.get("properties") if error.validator == "additionalProperties" else None
    return f"{message}; known keys: {', '.join(sorted(known))}" if known and len(known) < 60 else message


def _needed(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise Mistake(
            f"validating this needs the package {package}; install it with: pip install 'vitascope[cluster]'"
        ) from None
