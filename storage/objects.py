"""Object stores: their file systems, how often they are asked again, and errors with a name.

Requests are repeated in one place, which is the client's own: botocore's for S3 (the usual
``AWS_MAX_ATTEMPTS``, ``AWS_RETRY_MODE`` and profile settings hold), gcsfs' for Google.
Credentials and endpoints come from where those clients look for them, never from a URL.

Why not obstore, through zarr's own ``ObjectStore``: with it `ObjectStore` below stays as long
(errors must name the object, and it is pickled as a URL), and fsspec stays beside it for listing,
images and tables, with retries and settings of its own. It knows no profiles of ``~/.aws``, and
neither AWS's settings of retries nor those of fsspec's configuration.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import fsspec
from fsspec.spec import AbstractFileSystem

from .errors import StoreError

S3 = ("s3", "s3a")
GOOGLE = ("gs", "gcs")
WEB = ("http", "https")
# Schemes whose clients are installed by request: pip install 'facet-interp[EXTRA]'.
EXTRAS = {**dict.fromkeys(S3, "s3"), **dict.fromkeys(GOOGLE, "gcs"), **dict.fromkeys(WEB, "http")}
# Schemes that people write with too few slashes; a local path that begins so is never meant.
FAR = (*S3, *GOOGLE, *WEB, "abfs", "az", "hdfs", "hf", "file")
ATTEMPTS = 8  # about half a minute of pauses that double, where the user has set nothing
# s3fs wraps botocore's attempts twice more, each of which would multiply them by its own 5. Once
# again is kept for bodies that break off, which botocore does not see.
S3FS_ATTEMPTS = 2
RETRY_SETTINGS = ("AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS", "AWS_PROFILE", "AWS_CONFIG_FILE")
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
MISTAKES = (TypeError, AttributeError, LookupError, NameError, AssertionError)  # the code's own
_SIGNED = re.compile(
    r"[?&](x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature|awsaccesskeyid"
    r"|signature|sig|access_token)=",
    re.IGNORECASE,
)


# What clients say where they find no credentials: names of errors, of their own base classes.
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound",
    "TokenRetrievalError", "SSOTokenLoadError", "DefaultCredentialsError",
)  # fmt: skip
_NO_ANSWER = (
    "EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "gaierror",
    "ConnectionRefusedError",
)  # fmt: skip
_AGAIN = (
    "Finished shards and results are kept: mend what is wrong, or wait until the object "
    "store answers, then run the same command again."
)


class ObjectError(StoreError):
    """An object store still refused, failed or hung after all attempts."""


class NoClient(StoreError):
    """Nothing here reads or writes URLs of this kind."""


def is_local(url: str) -> bool:
    """Whether a URL names a place on this machine's file systems."""
    return "://" not in url or url.startswith("file://")


def refuse_unknown(url: str) -> None:
    """Raise ``StoreError`` if a URL is empty, or has a scheme that is none."""
    if not url.strip():
        raise StoreError("an empty path names no place: give a local path or an object-store URL")
    scheme, there, rest = url.partition("://")
    if not there:
        scheme, colon, rest = url.partition(":")
        if colon and scheme in FAR:
            where = ("/" if scheme == "file" else "") + rest.lstrip("/")
            raise StoreError(
                f"{url} lacks slashes: write {scheme}://{where}, or ./{url} for a path"
            )
        return
    known = fsspec.available_protocols()
    if scheme in known or "::" in scheme:  # chains such as simplecache::s3:// are fsspec's own
        return
    near = get_close_matches(scheme.lower(), FAR, n=1, cutoff=0.5)
    raise NoClient(
        f"{url}: nothing reads or writes {scheme}://"
        + (f"; did you mean {near[0]}://{rest}?" if near else ".")
        + " Give a local path, or an s3://bucket/… or gs://bucket/… URL."
    )


def refuse_absent(scheme: str) -> None:
    """Raise ``NoClient`` if URLs of a scheme need a package that is not installed."""
    if scheme not in EXTRAS:
        return
    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        raise NoClient(
            f"{scheme}:// needs packages that are not installed: "
            f"pip install 'facet-interp[{EXTRAS[scheme]}]', here and on every node"
        ) from error


def refuse_credentials(url: str) -> None:
    """Raise ``StoreError`` if a URL carries credentials: URLs are printed and kept."""
    scheme, there, rest = url.partition("://")
    if not there:
        return
    host = rest.split("/", 1)[0]
    if scheme in (*S3, *GOOGLE):  # no bucket has these characters; a secret may have a slash
        secret = ("@" in host or ":" in host) and not host.startswith("arn:")
    else:
        secret = bool(re.match(r"[^@]*:[^@]*@", host))
    if secret or _SIGNED.search(url):
        raise StoreError(
            f"a {scheme}:// URL with credentials in it is refused, since URLs are printed and kept "
            "with the results. Give the plain URL, and the credentials in the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), in ~/.aws, or by the machine's role."
        )


def object_store(url: str, **options: Any) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of an object-store URL, set up as all of Facet uses it, and the path.

    Parameters
    ----------
    url : str
    options
        Further ones for the file system.
    """
    refuse_credentials(url)
    refuse_unknown(url)
    scheme = urlsplit(url).scheme
    refuse_absent(scheme)
    if scheme in GOOGLE:
        # Every failed try comes with its trace; what fails in the end is said by `naming`.
        logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # A listing remembered from before another writer's put would hide finished shards.
    options = {"use_listings_cache": False, **options}
    if scheme in S3:
        options["config_kwargs"] = _s3_config()
    try:
        if "::" in url.partition("://")[0]:
            fs, path = fsspec.core.url_to_fs(url, **options)
        else:  # not by the call above, which takes "::" in a name for a chain of file systems
            kind = fsspec.get_filesystem_class(scheme)
            fs = kind(**{**kind._get_kwargs_from_urls(url), **options})
            path = fs._strip_protocol(url)
    except (ImportError, ValueError) as error:
        raise NoClient(f"{scheme}:// needs a client that is not here ({error})") from error
    if scheme in S3:
        fs.retries = S3FS_ATTEMPTS
    return fs, path


def _s3_config() -> dict[str, Any]:
    """The user's ``config_kwargs`` of fsspec, with retries where neither they nor AWS's settings
    say how many."""
    config: dict[str, Any] = {}
    for scheme in S3:
        config |= fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
    return {"retries": dict(_retries(*map(os.environ.get, RETRY_SETTINGS))), **config}


@lru_cache
def _retries(*environment: str | None) -> dict[str, Any]:
    """What the environment, and the profile that it names, leave open."""
    import botocore.session  # half a second that local stores are spared

    session = botocore.session.Session()
    retries: dict[str, Any] = {}
    if session.get_config_variable("max_attempts") is None:
        retries["total_max_attempts"] = ATTEMPTS
    mode = dict(zip(RETRY_SETTINGS, environment, strict=True))["AWS_RETRY_MODE"]
    if mode is None and session.get_config_variable("retry_mode") == "legacy":
        retries["mode"] = "standard"  # legacy is what botocore says where nobody has chosen
    return retries


@contextmanager
def naming(url: str, done: str, *, missing: bool = False) -> Iterator[None]:
    """Turn what an object store's client raises into an ``ObjectError`` that names the object.

    Mistakes of the code stay what they are: no waiting mends them.

    Parameters
    ----------
    url : str
        The object. Local files keep their own errors.
    done : str
        What was to be done with it, as in "cannot be read".
    missing : bool
        Whether a missing object (or bucket) is an error too, and not an answer.
    """
    try:
        yield
    except (StoreError, *MISTAKES):
        raise
    except Exception as error:  # every client has its own base class
        if is_local(url) or (isinstance(error, MISSING) and not missing):
            raise
        raise ObjectError(
            f"{url} cannot be {done}, after all attempts: {type(error).__name__}: {error}. "
            + " ".join(filter(None, [remedy(url, error), _AGAIN]))
        ) from error


def is_pattern(path: str) -> bool:
    """Whether fsspec, asked to remove a path, would remove all that it matches."""
    return any(c in path for c in "*?[")


def remedy(url: str, error: BaseException | None) -> str | None:
    """What to do about an object store's refusal, where it says what is wrong; else None."""
    names, codes = set(), set()
    while error is not None:
        names.add(type(error).__name__)
        if isinstance(answer := getattr(error, "response", None), dict):  # botocore's
            codes.add(answer.get("Error", {}).get("Code"))
        error = error.__cause__ or error.__context__
    google = urlsplit(url).scheme in GOOGLE
    variables = (
        "GOOGLE_APPLICATION_CREDENTIALS (or `gcloud auth application-default login`)"
        if google
        else "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN, too, where they are "
        "temporary) or AWS_PROFILE"
    )
    if names & set(_NO_CREDENTIALS):
        return (
            f"No credentials were found: set {variables} in the environment, here and on every "
            "node, or give the machines a role."
        )
    if codes & {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}:
        return f"The credentials are wrong or have run out: mend {variables}."
    if codes & {"AccessDenied", "AllAccessDisabled"}:
        return f"The credentials have no right to it: others by {variables}, or another place."
    if names & set(_NO_ANSWER):
        at = ", and AWS_ENDPOINT_URL" if urlsplit(url).scheme in S3 else ""
        return f"Nothing answers there: check the network and the address{at}."
    if "NoSuchBucket" in codes:
        return "Make the bucket, or mend its name."
    return None
