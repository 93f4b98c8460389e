//! A throwaway identity, and clients that trust exactly one certificate.
#![allow(dead_code)] // Each test uses its part.

use haca_dataplane::quic::TlsIdentity;
use std::sync::{Arc, OnceLock};

pub(crate) fn identity() -> TlsIdentity {
    static MADE: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    let (certificate, key) = MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["node".to_owned()]).unwrap();
        (made.cert.der().to_vec(), made.signing_key.serialize_der())
    });
    TlsIdentity { certificate: certificate.clone().into(), key: key.clone().into() }
}

pub(crate) fn client(alpn: &[u8]) -> quinn::Endpoint {
    trusting(identity().certificate, alpn)
}

pub(crate) fn trusting(
    certificate: rustls::pki_types::CertificateDer<'static>,
    alpn: &[u8],
) -> quinn::Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    endpoint
}
