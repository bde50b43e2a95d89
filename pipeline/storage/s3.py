"""Media in an S3-compatible store. The only module that uses boto3."""

import contextlib
import hashlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import boto3.session
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from botocore.utils import conditionally_calculate_md5

from pipeline.digests import sha256_hex
from pipeline.errors import InputError, NotFoundError, Problem, RefusedError, RetryableError, SettingsError
from pipeline.files.digests import stream_sha256
from pipeline.files.object_names import check_key
from pipeline.settings import S3Settings
from pipeline.storage.base import StoredObject
from pipeline.storage.local_files import CHUNK_BYTES, open_source, os_errors, whole_file
from pipeline.storage.round_trip import check_round_trip
from pipeline.storage.s3_errors import translate

MAX_EXPIRES_S = 7 * 24 * 3600  # SigV4 query signatures are valid for at most 7 days (Amazon S3, presigned URLs)
PAGE = 1_000  # keys in one answer to a listing, and in one DeleteObjects: the most that Amazon S3 allows
ATTEMPTS = 3
"""Requests per call, the first included; botocore waits in between. The rest is the step's own retry."""
_DEFAULT_REGION = "us-east-1"
SHA256_FIELD = "sha256"
"""Name of the user metadata (``x-amz-meta-sha256``) that holds an object's digest."""


def _add_md5(params: dict[str, Any], **more: Any) -> None:
    conditionally_calculate_md5(params, **more)


class S3Storage:
    """``Storage`` under a prefix of a bucket.

    A put replaces what is there, as boto3's managed transfer does it: in one request, or in parts from
    ``multipart_threshold`` on. Keys of media carry their digest, so nothing else can be replaced by it
    (docs/decisions/0024-s3-puts-replace.md).
    """

    def __init__(self, bucket: str, prefix: str, settings: S3Settings) -> None:
        self.bucket = bucket
        self.prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._settings = settings

    def put_file(self, key: str, path: Path, *, sha256: str, content_type: str) -> StoredObject:
        with open_source(path) as source:
            digest, size = stream_sha256(source)
            if digest != sha256:
                raise RetryableError(f"{path}: sha256 is {digest}, expected {sha256}", code="storage_corrupt")
            source.seek(0)
            self._put(key, source, sha256, content_type)
        return self._verified(key, size, sha256)

    def put_bytes(self, key: str, data: bytes, *, content_type: str) -> StoredObject:
        """Store a small object; one that is already there is replaced, whatever it holds."""
        digest = sha256_hex(data)
        self._put(key, io.BytesIO(data), digest, content_type)
        return self._verified(key, len(data), digest)

    def stat(self, key: str) -> StoredObject | None:
        name = self._name(key)
        try:
            with self._translated("stat", key):
                answer = self._client.head_object(Bucket=self.bucket, Key=name)
        except NotFoundError:
            self._require_bucket()
            return None
        digest = {field.lower(): value for field, value in answer.get("Metadata", {}).items()}.get(SHA256_FIELD)
        return StoredObject(key, answer["ContentLength"], digest, answer["LastModified"].timestamp())

    def read_bytes(self, key: str) -> bytes:
        target = io.BytesIO()
        self._fetch(key, target)
        return target.getvalue()

    def chunks(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        wanted = {} if start == 0 and stop is None else {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        with self._translated("get", key):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key), **wanted)
            with contextlib.closing(answer["Body"]) as body:
                while chunk := body.read(CHUNK_BYTES):
                    yield chunk

    def download(self, key: str, path: Path) -> None:
        with os_errors(path), whole_file(path) as file:
            self._fetch(key, file)

    def delete(self, key: str) -> None:
        with contextlib.suppress(NotFoundError), self._translated("delete", key):
            self._client.delete_object(Bucket=self.bucket, Key=self._name(key))

    def delete_all(self, keys: Sequence[str]) -> None:
        refused: list[str] = []
        for page in (keys[start : start + PAGE] for start in range(0, len(keys), PAGE)):
            objects = [{"Key": self._name(key)} for key in page]
            with self._translated("delete", f"{len(page)} objects from {page[0]}"):
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": objects, "Quiet": True})
            refused += [f"{error.get('Key')}: {error.get('Code')}" for error in answer.get("Errors", ())]
        if refused:
            raise RetryableError(f"{len(refused)} objects of {self.bucket} were not deleted; first {refused[0]}")

    def drop_unfinished(self, *, older_than_s: float, dry_run: bool = False) -> Sequence[str]:
        """Uploads in parts that were neither completed nor aborted: their parts are kept, and paid for, for ever."""
        dropped = []
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self.prefix)
        # Some stores answer NoSuchUpload where there is none at all.
        with self._translated("list uploads", self.prefix), contextlib.suppress(self._client.exceptions.NoSuchUpload):
            for page in pages:
                for upload in page.get("Uploads", ()):
                    if time.time() - upload["Initiated"].timestamp() < older_than_s:
                        continue
                    dropped.append(f"{upload['Key']} (upload {upload['UploadId']})")
                    if not dry_run:
                        with contextlib.suppress(self._client.exceptions.NoSuchUpload):  # it has ended since
                            self._client.abort_multipart_upload(
                                Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
                            )
        return dropped

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Objects whose keys begin with ``prefix``, by key; listings hold no checksums."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self.prefix + prefix, PaginationConfig={"PageSize": PAGE}
        )
        try:
            with self._translated("list", prefix):
                for page in pages:
                    for entry in page.get("Contents", ()):
                        key = entry["Key"].removeprefix(self.prefix)
                        yield StoredObject(key, entry["Size"], None, entry["LastModified"].timestamp())
        except NotFoundError as error:  # nothing but the bucket can be missing for a listing
            raise RefusedError(str(error), code="storage_missing") from error

    def url(self, key: str, *, expires_s: int) -> str:
        """A presigned URL, for 1 second to 7 days."""
        if not 1 <= expires_s <= MAX_EXPIRES_S:
            rule = f"{expires_s} s given; a presigned URL is valid for 1 to {MAX_EXPIRES_S} s (7 days)"
            raise InputError([Problem(rule, field="expires")])
        with self._translated("sign a URL for", key):
            signed: str = self._public_client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket, "Key": self._name(key)}, ExpiresIn=expires_s
            )
        return signed

    def check(self) -> None:
        check_round_trip(self)

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    # Clients

    @cached_property
    def _client(self) -> Any:
        return self._make_client(self._settings.endpoint_url, "VGEN_S3_ENDPOINT_URL")

    @cached_property
    def _public_client(self) -> Any:
        public = self._settings.public_endpoint_url
        return self._client if public is None else self._make_client(public, "VGEN_S3_PUBLIC_ENDPOINT_URL")

    def _make_client(self, endpoint: str | None, setting: str) -> Any:
        settings, region = self._settings, self._settings.region
        access, secret = settings.access_key_id, settings.secret_access_key
        config = Config(
            signature_version="s3v4",
            s3={"addressing_style": settings.addressing_style, "payload_signing_enabled": True},
            connect_timeout=settings.timeout_s,
            read_timeout=settings.timeout_s,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            request_checksum_calculation="when_required",  # botocore's default adds CRCs that some stores refuse
            response_checksum_validation="when_required",
        )
        try:
            # A session of our own: boto3's default one is shared and not safe to use from several threads.
            session = boto3.session.Session()
            region = _region(settings, session)
            client = session.client(
                "s3",
                endpoint_url=endpoint,
                region_name=region,
                aws_access_key_id=access.get_secret_value() if access else None,
                aws_secret_access_key=secret.get_secret_value() if secret else None,
                config=config,
            )
            if settings.checksum == "none":
                # How the store can tell that a body was damaged on its way. The signature has its digest too, but not
                # every store looks at it; all that were tried know Content-MD5.
                for operation in ("PutObject", "UploadPart"):
                    client.meta.events.register(f"before-call.s3.{operation}", _add_md5)
            return client
        except ValueError as error:  # also botocore's own for a region that cannot be
            raise SettingsError(f"{setting} {endpoint!r}, region {region!r} (VGEN_S3_REGION): {error}") from None
        except BotoCoreError as error:
            raise translate(error, f"s3 client for bucket {self.bucket}") from error

    @contextlib.contextmanager
    def _translated(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            where = self._settings.endpoint_url or "AWS"
            raise translate(error, f"{verb} {key} in s3://{self.bucket}/{self.prefix} at {where}") from error

    def _require_bucket(self) -> None:
        """A HEAD answers 404 for a missing bucket too: ask which it is."""
        try:
            with self._translated("find bucket for", self.prefix):
                self._client.head_bucket(Bucket=self.bucket)
        except NotFoundError as error:
            raise RefusedError(f"bucket {self.bucket} is not there: {error}", code="storage_missing") from error

    # Puts

    def _put(self, key: str, source: IO[bytes], sha256: str, content_type: str) -> None:
        """Send a body by boto3's managed transfer, which ends an upload in parts that fails."""
        extra: dict[str, Any] = {"ContentType": content_type, "Metadata": {SHA256_FIELD: sha256}}
        if self._settings.checksum != "none":
            extra["ChecksumAlgorithm"] = self._settings.checksum
        part_bytes = self._settings.multipart_threshold
        # In this thread: an encoder or a generator has the other cores.
        transfer = TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes, use_threads=False)
        name = self._name(key)
        try:
            with self._translated("put", key):
                self._client.upload_fileobj(source, self.bucket, name, ExtraArgs=extra, Config=transfer)
        except NotFoundError as error:  # nothing but the bucket can be missing for a put
            raise RefusedError(str(error), code="storage_missing") from error

    def _verified(self, key: str, size: int, sha256: str) -> StoredObject:
        """Return what the store says it holds after a put; some stores forget the metadata, none the size."""
        stored = self.stat(key)
        if stored is None or stored.size != size or stored.sha256 not in (None, sha256):
            raise RetryableError(
                f"{key} in bucket {self.bucket}: {stored} after {size} bytes, sha256 {sha256} were put",
                code="storage_corrupt",
            )
        return StoredObject(key, size, sha256, stored.modified_at)

    # Gets

    def _fetch(self, key: str, target: IO[bytes]) -> None:
        """Copy an object's bytes, and compare their number and digest with what the store says."""
        digest, size = hashlib.sha256(), 0
        with self._translated("get", key):
            answer = self._client.get_object(Bucket=self.bucket, Key=self._name(key))
            with contextlib.closing(answer["Body"]) as body:
                while chunk := body.read(CHUNK_BYTES):
                    digest.update(chunk)
                    size += len(chunk)
                    target.write(chunk)
        expected = answer.get("Metadata", {}).get(SHA256_FIELD, digest.hexdigest())
        if (size, digest.hexdigest()) != (answer["ContentLength"], expected):
            raise RetryableError(
                f"{key} in bucket {self.bucket}: got {size} bytes, sha256 {digest.hexdigest()}; "
                f"expected {answer['ContentLength']} bytes, sha256 {expected}",
                code="storage_corrupt",
            )


def _region(settings: S3Settings, session: boto3.session.Session) -> str:
    """AWS_REGION is what Amazon's other tools and its containers set; boto3 looks at AWS_DEFAULT_REGION alone."""
    return settings.region or os.environ.get("AWS_REGION") or session.region_name or _DEFAULT_REGION
