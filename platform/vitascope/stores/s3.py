"""S3, of any provider."""

import io
from collections.abc import Iterator
from typing import Any

import aiohttp
import s3fs
from botocore.exceptions import (
    ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from fsspec.asyn import sync_wrapper
from s3fs.errors import translate_boto_error

from vitascope.errors import Forbidden, Missing, Mistake
from vitascope.stores import patience

# Besides answers of 500 and above: requests to send again, later or because they were damaged on the way.
_PASSING = {"SlowDown", "RequestTimeout", "Throttling", "ThrottlingException", "TooManyRequests", "429"} | {
    "ConditionalRequestConflict",
    "OperationAborted",
    "InternalError",
    "ServiceUnavailable",
    "BadDigest",
    "IncompleteBody",
    "XAmzContentSHA256Mismatch",
}
_BROKEN = (
    aiohttp.ClientError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
)
# Content of twice this size or more is uploaded in parts, some at a time.
PART_BYTES = 32 * 2**20
_PARTS_AT_A_TIME = 4
# Read-ahead of an open file; s3fs's 50 MiB is 20 times a clip.
AHEAD_BYTES = 4 * 2**20
_LARGEST_PUT_BYTES = 5 * 2**30


def connect() -> "Store":
    """The client, one for each process; endpoint and credentials are those of the environment."""
    config = {
        "retries": {"total_max_attempts": 1},  # `patience` retries
        "connect_timeout": patience.CONNECT_S,
        "read_timeout": patience.STALL_S,
        "max_pool_connections": 50,
    }
    return Store(use_listings_cache=False, max_concurrency=_PARTS_AT_A_TIME, config_kwargs=config)


class Store(s3fs.S3FileSystem):
    """s3fs, with every request retried until it is answered or its time is up."""

    retries = 1

    async def _call_s3(self, method: str, *akwarglist: dict[str, Any], **kwargs: Any) -> Any:
        """One request and its whole answer: a body that breaks off fails the attempt, not the reader."""

        async def attempt() -> Any:
            answer = await super(Store, self)._call_s3(method, *akwarglist, **kwargs)
            if method == "get_object":
                async with answer["Body"] as body:
                    answer["Body"] = _Body(await body.read())
            if method == "delete_objects" and answer.get("Errors"):  # s3fs ignores them
                raise translate_boto_error(ClientError({"Error": answer["Errors"][0]}, method))
            return answer

        where = "/".join(str(kwargs[k]) for k in ("Bucket", "Key", "Prefix") if kwargs.get(k))
        n_sent = len(kwargs["Body"]) if "Body" in kwargs else None
        try:
            return await patience.persist(attempt, f"{method} s3://{where}", _may_pass, n_sent)
        except (PermissionError, FileNotFoundError) as error:
            raise _named(error, f"s3://{where}") from error.__cause__

    call_s3 = sync_wrapper(_call_s3)

    def names(self, path: str) -> Iterator[str]:
        """The names of the objects right in a folder, a page in memory at a time."""
        bucket, key, _ = self.split_path(path)
        prefix = f"{key}/" if key else ""
        after: dict[str, str] = {}
        while True:
            page = self.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, Delimiter="/", **after)
            yield from (entry["Key"][len(prefix) :] for entry in page.get("Contents", ()))
            if not page.get("IsTruncated"):
                return
            after = {"ContinuationToken": page["NextContinuationToken"]}

    def _open(self, path: str, mode: str = "rb", block_size: int | None = None, **kwargs: Any) -> Any:
        """An open file; writes go in parts of s3fs's 50 MiB."""
        return super()._open(path, mode, block_size or (AHEAD_BYTES if mode == "rb" else None), **kwargs)

    async def _pipe_file(self, path: str, data: bytes, chunksize: int | None = None, **kwargs: Any) -> Any:
        """Commits `data`, from 64 MiB on in parts that become one object, or are dropped, at the end."""
        kwargs["chunksize"] = chunksize or PART_BYTES
        try:
            return await super()._pipe_file(path, data, **kwargs)
        except FileNotFoundError as error:
            if _code(error) != "NoSuchUpload":
                raise
        # Whether the parts became the object was in the lost answer; sending them again makes sure.
        return await super()._pipe_file(path, data, **kwargs)

    async def _put_file(self, lpath: str, rpath: str, **kwargs: Any) -> None:
        """Commits a local file as `_pipe_file` does; only a few parts are in memory at a time."""
        kwargs["chunksize"] = kwargs.get("chunksize") or PART_BYTES
        try:
            return await super()._put_file(lpath, rpath, **kwargs)
        except FileNotFoundError as error:
            if _code(error) != "NoSuchUpload":
                raise
        return await super()._put_file(lpath, rpath, **kwargs)

    async def _create(self, path: str, data: bytes, writer: str) -> bool:
        """Commits `data` if no object exists; returns whether this call, identified by `writer`, did it.

        One request, whatever the size: not every implementation completes an upload in parts conditionally.
        If the answer to the winning request was lost, its retry fails because the object exists: the writer's
        name, stored with the object, then shows whose it is.
        """
        if len(data) >= _LARGEST_PUT_BYTES:
            raise Mistake(f"s3://{path} would be {len(data)} bytes; S3 creates files of less than 5 GiB")
        try:
            metadata = {"writer": writer}
            await self._pipe_file(path, data, _LARGEST_PUT_BYTES, mode="create", Metadata=metadata)
        except OSError as error:
            if _code(error) != "PreconditionFailed":
                raise
            bucket, key, _ = self.split_path(path)
            existing = await self._call_s3("head_object", Bucket=bucket, Key=key)
            return bool(existing["Metadata"].get("writer") == writer)
        return True

    create = sync_wrapper(_create)


class _Body(io.BytesIO):
    """The body of an answer, already read."""

    async def read(self, n_bytes: int = -1) -> bytes:  # type: ignore[override]
        return super().read(n_bytes)


def _code(error: BaseException | None) -> str:
    """S3's code of an error, also of one that s3fs has translated; "" if it is not S3's."""
    answered = error if isinstance(error, ClientError) else getattr(error, "__cause__", None)
    return str(answered.response["Error"].get("Code")) if isinstance(answered, ClientError) else ""


def _named(error: OSError, where: str) -> OSError:
    """The error with its subject named, if the user can fix it: a bucket, or permissions."""
    if isinstance(error, PermissionError):
        return Forbidden(f"S3 refuses {where}: {error}")
    if _code(error) == "NoSuchBucket":
        return Missing(f"no bucket {where.split('/')[2]}: {error}")
    return error


def _may_pass(error: Exception) -> bool:
    if isinstance(error, _BROKEN):
        return not isinstance(error, SSLError)
    answered = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(answered, ClientError):
        return False
    status = answered.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return _code(error) in _PASSING or (status >= 500 and status != 501)
