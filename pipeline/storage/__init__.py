"""The stores of media. The S3 form is imported from ``pipeline.storage.s3`` where needed: boto3 is slow to load."""

from pipeline.storage.base import Storage, StoredObject
from pipeline.storage.folder import FolderStorage

__all__ = ["FolderStorage", "Storage", "StoredObject"]
