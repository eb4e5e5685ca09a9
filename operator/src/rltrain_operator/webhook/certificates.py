"""Certificates of the webhook's server: a pair of key and certificate, signed by an authority made for it alone.

X.509 by the library `cryptography`, with ECDSA over P-256 (FIPS 186-5), which every client of TLS 1.2 and 1.3 knows.
The authority's key signs once and is forgotten: whoever reads the Secret later can make no certificate that the API
server trusts. It must not know where a pair is kept.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# Clocks of the API server and of this machine may differ by so much.
CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """PEM texts: the server's key, its certificate, and the certificate of the authority that signed it."""

    key: bytes
    certificate: bytes
    authority: bytes

    def expires(self) -> datetime:
        """When clients stop to accept it (UTC)."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def names(self) -> frozenset[str]:
        """The names and addresses that it is for."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        hosts = alternatives.get_values_for_type(x509.DNSName)
        return frozenset((*hosts, *map(str, alternatives.get_values_for_type(x509.IPAddress))))


def make_pair(names: Sequence[str], now: datetime, validity: timedelta) -> Pair:
    """A pair for these names and addresses, and an authority of its own, both valid for `validity` from `now` on."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name(f"{names[0]} authority")
    authority = _sign(
        _builder(issuer, issuer, authority_key.public_key(), now, validity)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True),
        authority_key,
    )
    certificate = _sign(
        _builder(_name(names[0]), issuer, key.public_key(), now, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False),
        authority_key,
    )
    pem = serialization.Encoding.PEM
    return Pair(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        certificate.public_bytes(pem),
        authority.public_bytes(pem),
    )


def belongs_together(pair: Pair) -> bool:
    """Whether these texts are a key, its certificate, and the authority that signed it; what is torn is none."""
    try:
        key = serialization.load_pem_private_key(pair.key, password=None)
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        authority = x509.load_pem_x509_certificate(pair.authority)
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return certificate.public_key() == key.public_key()


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, now: datetime, validity: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + validity)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _sign(builder: x509.CertificateBuilder, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    return builder.sign(key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])  # RFC 5280: at most 64 characters


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
