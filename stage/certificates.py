"""A certificate of one's own for https, kept between shows, for the names and addresses of this machine."""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from files import atomic_path

DAYS = 397  # more than Safari and Chromium accept of a certificate
RENEWED = datetime.timedelta(days=30)  # before its end


def own_certificate(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """Return certificate and private key (PEM) for these names and addresses; make them if they are not in `folder`.

    Raises:
        OSError: they cannot be written.
    """
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    if not (key.is_file() and _serves(certificate, names)):
        private = ec.generate_private_key(ec.SECP256R1())
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(key, pem)
        _write(certificate, _signed(private, names).public_bytes(serialization.Encoding.PEM))
    return certificate, key


def names_in(certificate: Path) -> list[str]:
    """Return the names and addresses that a certificate is for; IPv6 addresses in brackets.

    Raises:
        ValueError: it is no certificate in PEM.
    """
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except ValueError as error:
        raise ValueError(f"{certificate} is not a certificate in PEM: give the file of the whole chain") from error
    except x509.ExtensionNotFound:
        return []
    addresses = names.get_values_for_type(x509.IPAddress)
    texts = [f"[{one}]" if one.version == 6 else str(one) for one in addresses]
    return [*names.get_values_for_type(x509.DNSName), *texts]


def fingerprint(certificate: Path) -> str:
    """Return the SHA-256 fingerprint as browsers show it, to compare by eye."""
    read = x509.load_pem_x509_certificate(certificate.read_bytes())
    return read.fingerprint(hashes.SHA256()).hex(":").upper()


def _serves(certificate: Path, names: Sequence[str]) -> bool:
    """Tell whether a certificate exists, is for all names, and will be valid for a while."""
    try:
        read = x509.load_pem_x509_certificate(certificate.read_bytes())
        there = names_in(certificate)
    except (OSError, ValueError):
        return False
    left = read.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    return left > RENEWED and set(names) <= set(there)


def _signed(key: ec.EllipticCurvePrivateKey, names: Sequence[str]) -> x509.Certificate:
    """Return a certificate that this key signs for itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voicetoimg stage")])
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks of other devices differ
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read."""
    with atomic_path(path) as temporary:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
