"""Maps an S3 client's errors to vgen's, the most specific class first.

botocore's classes are looked up by name, so that nothing but the client itself loads botocore; a test compares the
names with the library, and fails when it grows one that is not here.
"""

from enum import Enum
from typing import Any

from pipeline.errors import FatalError, NotFoundError, RefusedError, RetryableError, VgenError


class Kind(Enum):
    """The meaning of an error for the store."""

    RETRY = "temporarily_unavailable"
    """Network, throttling or the store's own fault."""
    CORRUPT = "storage_corrupt"
    """Bytes were damaged on the way."""
    FULL = "disk_full"
    """The store has no space left."""
    ABSENT = "not_found"
    """No such object."""
    MISSING = "storage_missing"
    """No such bucket."""
    DENIED = "storage_denied"
    """Keys are missing, wrong or not allowed to do this."""
    MISCONFIGURED = "storage_misconfigured"
    """The settings of the client cannot work."""
    BUG = "unexpected_error"
    """We used the client wrongly."""


_CLASSES: dict[Kind, str] = {
    Kind.RETRY: """HTTPClientError ConnectionError IncompleteReadError CapacityNotAvailableError
        CredentialRetrievalError MetadataRetrievalError""",
    Kind.CORRUPT: "ChecksumError FlexibleChecksumError AwsChunkedWrapperError",
    Kind.DENIED: """NoCredentialsError PartialCredentialsError NoAuthTokenError SSOError LoginError TokenRetrievalError
        RefreshWithMFAUnsupportedError UnknownTokenProviderError UnknownCredentialError""",
    Kind.MISCONFIGURED: """ProfileNotFound ConfigNotFound ConfigParseError InvalidConfigError InvalidDefaultsMode
        InvalidProxiesConfigError InvalidRetryConfigurationError InvalidIMDSEndpointError InvalidIMDSEndpointModeError
        InvalidChecksumConfigError InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError
        InvalidSTSRegionalEndpointsConfigError InvalidEndpointConfigurationError InvalidRegionError InvalidDNSNameError
        InvalidEndpointDiscoveryConfigurationError InvalidHostLabelError BaseEndpointResolverError EndpointProviderError
        UnknownRegionError ServiceNotInRegionError MissingDependencyException UnsupportedS3ArnError
        UnsupportedS3ConfigurationError UnsupportedS3AccesspointConfigurationError UnsupportedS3ControlArnError
        UnsupportedS3ControlConfigurationError UnsupportedOutpostResourceError UnsupportedTLSVersionWarning
        UnsupportedSignatureVersionError UnknownSignatureVersionError UnsupportedServiceProtocolsError
        MD5UnavailableError""",
    Kind.BUG: """ApiVersionNotFoundError DataNotFoundError ImminentRemovalWarning InvalidExpressionError
        MissingParametersError OperationNotPageableError PaginationError ParamValidationError StubResponseError
        UndefinedModelAttributeError UnknownClientMethodError UnknownServiceStyle UnseekableStreamError ValidationError
        WaiterConfigError WaiterError""",
}
_KIND_OF_CLASS = {name: kind for kind, names in _CLASSES.items() for name in names.split()}
# A store's endpoint that answers with something else than S3's XML.
_KIND_OF_CLASS["ResponseParserError"] = Kind.RETRY

_CODES: dict[Kind, str] = {
    Kind.MISSING: "NoSuchBucket",
    Kind.ABSENT: "NoSuchKey 404 NotFound",
    Kind.DENIED: """AccessDenied InvalidAccessKeyId SignatureDoesNotMatch ExpiredToken InvalidToken AllAccessDisabled
        AuthorizationHeaderMalformed AccountProblem PermanentRedirect""",
    Kind.CORRUPT: """BadDigest InvalidDigest InvalidPart XAmzContentSHA256Mismatch XAmzContentChecksumMismatch
        IncompleteBody""",
    Kind.FULL: "XMinioStorageFull InsufficientStorage QuotaExceeded",
    Kind.RETRY: """SlowDown Throttling ThrottlingException RequestTimeout RequestTimeoutException InternalError
        ServiceUnavailable OperationAborted ConditionalRequestConflict BandwidthLimitExceeded NoSuchUpload""",
}
_KIND_OF_CODE = {code: kind for kind, codes in _CODES.items() for code in codes.split()}
_KIND_OF_STATUS = {
    301: Kind.DENIED,
    307: Kind.DENIED,
    401: Kind.DENIED,
    403: Kind.DENIED,
    404: Kind.ABSENT,
    408: Kind.RETRY,
    409: Kind.RETRY,
    429: Kind.RETRY,
    507: Kind.FULL,
}


def kind_of_class(error_class: type[BaseException]) -> Kind | None:
    """Return what errors of this class mean; None when neither it nor a class it derives from is known."""
    for parent in error_class.__mro__:
        if parent.__name__ in _KIND_OF_CLASS:
            return _KIND_OF_CLASS[parent.__name__]
    return None


def code_and_status(error: BaseException) -> tuple[str, int]:
    """S3's error code and the HTTP status of an answer, ``("", 0)`` when the error is not an answer."""
    response: dict[str, Any] = getattr(error, "response", None) or {}
    if not isinstance(response, dict):
        return "", 0
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(response.get("Error", {}).get("Code", "")), int(status or 0)


def kind_of(error: BaseException) -> Kind:
    """Return what an error of the S3 client means; an unknown one is taken for a bug of ours."""
    code, status = code_and_status(error)
    if code or status:
        if status >= 500 and status != 507:
            return _KIND_OF_CODE.get(code, Kind.RETRY)
        return _KIND_OF_CODE.get(code) or _KIND_OF_STATUS.get(status, Kind.BUG)
    return kind_of_class(type(error)) or Kind.BUG


def translate(error: BaseException, doing: str) -> VgenError:
    """The vgen error for a failed call; ``doing`` says what was tried and on what, for the message."""
    kind = kind_of(error)
    message = f"{doing}: {type(error).__name__}: {error}"
    if kind is Kind.ABSENT:
        return NotFoundError(message)
    if kind in (Kind.MISSING, Kind.DENIED, Kind.MISCONFIGURED):
        return RefusedError(message, code=kind.value)
    if kind is Kind.BUG:
        return FatalError(message)
    return RetryableError(message, code=kind.value)
