//! What the handshakes of one listener are made with: keys, certificates, suites, in one OpenSSL context.

mod names;
mod setup;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::pkey::{PKeyRef, Public};
use openssl::ssl::{Ssl, SslContext, SslRef, SslVerifyMode};
use openssl::x509::X509Ref;
use zeroize::{Zeroize, Zeroizing};

use portcullis_proto::state::{ReadBytes, WriteBytes};
use portcullis_proto::types::{Identity, Proof};

use super::certificates::{self, CertField, CertIdentity, CertificateMark, ContextError};
use super::chains::{Chain, ChainId, Chains, Issuers, Redeeming};
use super::cid::{Notes, notes_index};
use super::ffi;
use super::ffi::raw_keys;
use super::hello::ClientHello;
use super::psk::{PskKey, PskStore, identity_text};
use super::raw_keys::{Fingerprint, RawKeys, fingerprint};
use super::shared::DtlsShared;
use super::suite::{KeyExchange, Suite};
use setup::{Built, OwnCertificate, PSK_GROUPS, issuers};

/// Whether clients must show a certificate, where the suite has certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verify {
    /// None is asked for.
    #[default]
    None,
    /// One is asked for, and must be good if it comes.
    Optional,
    /// Without a good one the handshake fails.
    Required,
}

/// The keys that session tickets are made with: 16 bytes of name, 32 for the MAC, 32 for AES. The same in every
/// worker and context, so that a ticket outlives both; new ones send old tickets through full handshakes.
#[derive(Clone)]
pub struct TicketKeys(Zeroizing<[u8; 80]>);

impl TicketKeys {
    /// Keys from random bytes.
    #[must_use]
    pub fn new(mut bytes: [u8; 80]) -> Self {
        let keys = Self(Zeroizing::new(bytes));
        bytes.zeroize();
        keys
    }
}

impl PartialEq for TicketKeys {
    fn eq(&self, other: &Self) -> bool {
        openssl::memcmp::eq(self.0.as_slice(), other.0.as_slice())
    }
}

impl Eq for TicketKeys {}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKeys(..)")
    }
}

/// One more certificate of a server.
#[derive(Clone)]
pub struct CertificateMaterial {
    /// The certificate and its chain, the server's own first.
    pub cert_pem: Vec<u8>,
    /// The private key that belongs to it.
    pub key_pem: Zeroizing<Vec<u8>>,
    /// What that is encrypted with, where it is.
    pub key_password: Option<Zeroizing<Vec<u8>>>,
}

/// What a [`DtlsContext`] is made from. PEM is handed in as bytes: files are read elsewhere.
#[derive(Clone)]
pub struct DtlsMaterial {
    /// Pre-shared keys; `None` for no PSK suites.
    pub psks: Option<Arc<PskStore>>,
    /// Whether keys of other identities are asked for while their handshakes wait.
    pub live_keys: bool,
    /// The server's certificate and its chain, the server's first.
    pub cert_pem: Option<Vec<u8>>,
    /// The private key that belongs to it.
    pub key_pem: Option<Zeroizing<Vec<u8>>>,
    /// Whose raw public keys are taken (RFC 7250); `None` for no raw keys at all, not even the server's own.
    pub raw_keys: Option<Arc<RawKeys>>,
    /// Trust anchors for client certificates.
    pub ca_pem: Option<Vec<u8>>,
    /// What `key_pem` is encrypted with, where it is.
    pub key_password: Option<Zeroizing<Vec<u8>>>,
    /// More certificates: of another kind, or for other names.
    pub certificates: Vec<CertificateMaterial>,
    /// Most authorities between a client's certificate and a trust anchor.
    pub verify_depth: u32,
    /// Revocation lists for client certificates.
    pub crl_pem: Option<Vec<u8>>,
    /// Whether clients must show a certificate.
    pub verify: Verify,
    /// Which name of a client's certificate is its identity.
    pub cert_identity: CertIdentity,
    /// Attributes of clients by their names, and what of a certificate they are.
    pub cert_attributes: Vec<(String, CertField)>,
    /// An OpenSSL cipher list; empty for the built-in policy. What is neither AEAD nor, with `legacy_cbc`, one of the suites of
    /// CBC that old devices have, is left out.
    pub ciphers: String,
    /// Whether there are suites of CBC, by OpenSSL's own records and without a Connection ID.
    pub legacy_cbc: bool,
    /// Whether it is for streams: TLS 1.2 and 1.3 instead of DTLS. What only datagrams have is passed over then.
    pub tls: bool,
    /// Largest datagram of a flight, in bytes of UDP payload; 256 to 16384.
    pub mtu: usize,
    /// Whether to negotiate Connection IDs (RFC 9146).
    pub cid: bool,
    /// What session tickets are made with.
    pub ticket_keys: TicketKeys,
}

impl fmt::Debug for DtlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsMaterial")
            .field("psks", &self.psks)
            .field("verify", &self.verify)
            .field("ciphers", &self.ciphers)
            .finish_non_exhaustive()
    }
}

/// Whom a handshake or a session belongs to, and by what it can lose that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) identity: Option<Identity>,
    /// A hash of the pre-shared key, to see that it was changed.
    pub(super) psk_mark: u64,
    /// Whether that key is from a source of keys.
    pub(super) has_live_key: bool,
    /// The client's certificate.
    pub(super) certificate: Option<Box<Certified>>,
    /// The client's raw public key.
    pub(super) raw_key: Option<Box<Fingerprint>>,
}

/// A client's certificate, as far as it can lose what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Certified {
    mark: CertificateMark,
    /// In seconds since 1970.
    not_after: i64,
    chain: Arc<Chain>,
}

impl Certified {
    pub(super) const fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }

    /// Writes it down for the next process, which finds the chain by its name.
    pub(super) fn write(&self, out: &mut WriteBytes) {
        out.raw(&self.mark.0)
            .u64(self.not_after.cast_unsigned())
            .raw(&self.chain.id());
    }

    /// What an earlier process wrote down; `chains` finds the chain.
    pub(super) fn read(
        bytes: &mut ReadBytes<'_>,
        chains: impl FnOnce(&ChainId) -> Option<Arc<Chain>>,
    ) -> Option<Self> {
        Some(Self {
            mark: CertificateMark(bytes.array()?),
            not_after: bytes.u64()?.cast_signed(),
            chain: chains(&bytes.array()?)?,
        })
    }
}

/// The OpenSSL context of one listener with what it was made from; shared by all workers and never changed.
pub struct DtlsContext {
    context: SslContext,
    material: DtlsMaterial,
    psks: Option<Arc<PskStore>>,
    suites: Vec<Suite>,
    ignored_ciphers: Vec<String>,
    revoked: HashSet<CertificateMark>,
    cert_identity: CertIdentity,
    verify: Verify,
    verify_depth: u32,
    /// What issuers are judged by, and the verdicts so far.
    issuers: Option<Arc<Issuers>>,
    verdicts: Mutex<HashMap<ChainId, bool>>,
    own_not_before: Option<i64>,
    own_not_after: Option<i64>,
    crl_next_update: Option<i64>,
    cid: bool,
    mtu: u32,
}

impl fmt::Debug for DtlsContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsContext")
            .field("suites", &self.suites)
            .finish_non_exhaustive()
    }
}

impl DtlsContext {
    /// Builds and checks everything.
    ///
    /// # Errors
    /// What is wrong, under the name of the configuration key it came by.
    pub fn new(material: &DtlsMaterial) -> Result<Self, ContextError> {
        if !(256..=16_384).contains(&material.mtu) {
            return Err(ContextError::new("mtu", "it must be 256 to 16384"));
        }
        if material.raw_keys.is_some() && !raw_keys::SUPPORTED {
            return Err(ContextError::new(
                "rpk_file",
                "raw public keys need an OpenSSL of 3.2 or newer, and this binary is built with an older one: \
                 build it with `--features vendored`, or on a system that has one",
            ));
        }
        let own = setup::own_certificates(material)?;
        let crls = setup::lists(material)?;
        let of_each = |own: &OwnCertificate| (own.names.clone(), own.kind);
        let mut chosen = names::selections(&own.iter().map(of_each).collect::<Vec<_>>());
        if let Some(unused) = (0..own.len()).find(|at| !chosen.values().flatten().any(|used| used == at)) {
            let number = unused + usize::from(material.cert_pem.is_none());
            return Err(ContextError::new(
                "certificates",
                format!("number {number} is never chosen: certificates of its kind before it have its names"),
            ));
        }
        let for_any = chosen.remove(names::ANY).unwrap_or_default();
        let build = |chosen: &[usize]| {
            let own: Vec<&OwnCertificate> = chosen.iter().filter_map(|at| own.get(*at)).collect();
            setup::context(material, &own, &crls)
        };
        let Built {
            mut builder,
            suites,
            ignored_ciphers,
        } = build(&for_any)?;
        chosen.retain(|_, chosen| *chosen != for_any);
        let mut by_certificates: HashMap<Vec<usize>, SslContext> = HashMap::new();
        let mut by_name = HashMap::new();
        for (name, chosen) in chosen {
            let context = match by_certificates.get(&chosen) {
                Some(context) => context.clone(),
                None => build(&chosen)?.builder.build(),
            };
            by_certificates.insert(chosen, context.clone());
            by_name.insert(name, context);
        }
        if !by_name.is_empty() {
            setup::choose_by_name(&mut builder, by_name);
        }
        let next_updates = crls
            .iter()
            .filter_map(|crl| certificates::unix_seconds(crl.next_update()?));
        Ok(Self {
            context: builder.build(),
            material: material.clone(),
            psks: material.psks.clone(),
            suites,
            ignored_ciphers,
            revoked: certificates::revoked(&crls),
            cert_identity: material.cert_identity,
            verify: material.verify,
            verify_depth: material.verify_depth,
            issuers: issuers(material, &crls)?.map(Arc::new),
            verdicts: Mutex::default(),
            own_not_before: own.iter().filter_map(|own| own.not_before).max(),
            own_not_after: own.iter().filter_map(|own| own.not_after).min(),
            crl_next_update: next_updates.min(),
            cid: material.cid,
            mtu: u32::try_from(material.mtu).unwrap_or(1280),
        })
    }

    /// The same with other ticket keys: of the very same certificates and keys, whatever their files hold by now.
    ///
    /// # Errors
    /// OpenSSL refuses.
    pub fn with_ticket_keys(&self, ticket_keys: TicketKeys) -> Result<Self, ContextError> {
        Self::new(&DtlsMaterial {
            ticket_keys,
            ..self.material.clone()
        })
    }

    /// When the first of the server's certificates ends, in seconds since 1970.
    #[must_use]
    pub const fn certificate_not_after(&self) -> Option<i64> {
        self.own_not_after
    }

    /// Whether all certificates of the server are valid at `now`, in seconds since 1970; so it is when there is none.
    #[must_use]
    pub fn certificate_is_current(&self, now: i64) -> bool {
        self.own_not_before.is_none_or(|from| from <= now) && self.own_not_after.is_none_or(|to| now <= to)
    }

    /// When the first of the revocation lists is out of date, in seconds since 1970. From then on client
    /// certificates are refused.
    #[must_use]
    pub const fn crl_next_update(&self) -> Option<i64> {
        self.crl_next_update
    }

    /// The suites in use, best first.
    #[must_use]
    pub fn suites(&self) -> &[Suite] {
        &self.suites
    }

    /// Suites of the `ciphers` list that are left out, by OpenSSL's names: they are not spoken, or not without `legacy_cbc`, or
    /// there is no key for them.
    #[must_use]
    pub fn ignored_ciphers(&self) -> &[String] {
        &self.ignored_ciphers
    }

    /// The pre-shared keys.
    #[must_use]
    pub fn psks(&self) -> Option<&Arc<PskStore>> {
        self.psks.as_ref()
    }

    /// Whether keys that no file has are asked for.
    pub(super) const fn asks_for_keys(&self) -> bool {
        self.material.live_keys
    }

    pub(super) const fn cid(&self) -> bool {
        self.cid
    }

    pub(super) fn asks_certificates(&self) -> bool {
        self.verify != Verify::None || self.has_raw_keys()
    }

    pub(super) const fn has_raw_keys(&self) -> bool {
        self.material.raw_keys.is_some()
    }

    pub(super) const fn openssl(&self) -> &SslContext {
        &self.context
    }

    /// A fresh server side of a handshake with the client that says `hello`.
    pub(super) fn server(
        &self,
        mut notes: Notes,
        shared: &Arc<DtlsShared>,
        hello: &ClientHello<'_>,
    ) -> Result<Ssl, ErrorStack> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_mtu(self.mtu)?;
        let exchange = self.chosen(hello.suites).map(Suite::key_exchange);
        notes.transcript = matches!(exchange, Some(KeyExchange::Psk) | None).then(Vec::new);
        notes.redeeming = Some(Redeeming {
            shared: Arc::clone(shared),
            issuers: self.issuers.clone(),
            chain: OnceLock::new(),
        });
        ssl.set_ex_data(notes_index()?, notes);
        match exchange {
            // A ticket would cost more than the handshake that it saves.
            Some(KeyExchange::Psk) => ffi::refuse_ticket(&ssl),
            Some(KeyExchange::EcdhePsk) => {
                ffi::set_groups(&ssl, &PSK_GROUPS);
                if self.material.live_keys {
                    // Nobody could be asked whether the key still counts when a ticket is redeemed.
                    ffi::refuse_ticket(&ssl);
                }
            }
            _ => {}
        }
        if self.has_raw_keys() {
            if hello.takes_raw_key().1 {
                raw_keys::prefer(&ssl);
            }
            // Nobody else is asked for a key here.
            if self.verify == Verify::None && hello.offers_raw_key() {
                ssl.set_verify(SslVerifyMode::PEER);
            }
        }
        ssl.set_accept_state();
        Ok(ssl)
    }

    /// What a handshake with a client that offers these suites will be done by, two bytes each; where it cannot be told, by
    /// what is dearest here.
    pub(super) fn exchange(&self, offered: &[u8]) -> KeyExchange {
        let dearest = || self.suites.iter().map(|suite| suite.key_exchange()).max();
        let chosen = self.chosen(offered).map(Suite::key_exchange);
        chosen.or_else(dearest).unwrap_or(KeyExchange::EcdheRsa)
    }

    fn chosen(&self, offered: &[u8]) -> Option<Suite> {
        let (offered, _) = offered.as_chunks::<2>();
        self.suites
            .iter()
            .copied()
            .find(|suite| offered.contains(&suite.id()))
    }

    /// Whom a finished handshake belongs to; nothing when that one is not, or no longer, let in. It may have begun, or its ticket
    /// been issued, under other material.
    pub(super) fn authorize(&self, ssl: &SslRef, suite: Suite, chains: &Chains) -> Option<Authority> {
        let authority = if suite.key_exchange().uses_psk() {
            self.by_psk(ssl)
        } else {
            match (ssl.peer_certificate(), raw_keys::of_peer(ssl)) {
                (Some(certificate), _) => self.by_certificate(ssl, &certificate, chains),
                (None, Some(key)) => self.by_raw_key(&key),
                (None, None) => Some(Authority::default()),
            }
        };
        authority.filter(|authority| self.still_authorizes(authority))
    }

    /// As [`Self::authorize`], of a TLS handshake, which resumes nothing.
    pub(super) fn authorize_tls(&self, ssl: &SslRef, uses_psk: bool, chains: &Chains) -> Option<Authority> {
        let authority = match (uses_psk, ssl.peer_certificate()) {
            (true, _) => self.by_used_key(ssl),
            (false, Some(certificate)) => {
                let chain = chains.above(ssl.verified_chain()?, ssl.peer_cert_chain())?;
                self.certified(&certificate, chain)
            }
            (false, None) => Some(Authority::default()),
        };
        authority.filter(|authority| self.still_authorizes(authority))
    }

    fn by_psk(&self, ssl: &SslRef) -> Option<Authority> {
        if !ssl.session_reused() {
            return self.by_used_key(ssl);
        }
        let data = ffi::ticket_mark(ssl)?;
        let (mark, identity) = data.split_first_chunk()?;
        self.by_identity(identity, u64::from_be_bytes(*mark), None)
    }

    /// Whose the pre-shared key is that a handshake was done with.
    fn by_used_key(&self, ssl: &SslRef) -> Option<Authority> {
        let notes = ssl.ex_data(notes_index().ok()?)?;
        let key = notes.psk_key.get()?;
        let live = Some(&**key).filter(|key| key.is_live());
        self.by_identity(notes.psk_identity.as_deref()?, key.mark(), live)
    }

    fn by_identity(&self, identity: &[u8], mark: u64, live: Option<&PskKey>) -> Option<Authority> {
        let in_file = self.psks.as_ref()?.get(identity);
        let name = match in_file {
            Some(keys) => keys.name().clone(),
            None => identity_text(identity).into(),
        };
        let key = live.or_else(|| in_file?.marked(mark).map(|key| &**key));
        let identity = Identity {
            attributes: key.map(|key| key.attributes().clone()).unwrap_or_default(),
            ..Identity::new(name, Proof::Psk)
        };
        Some(Authority {
            identity: Some(identity),
            psk_mark: mark,
            has_live_key: live.is_some(),
            ..Authority::default()
        })
    }

    fn by_raw_key(&self, key: &PKeyRef<Public>) -> Option<Authority> {
        let fingerprint = fingerprint(key)?;
        let name = self.material.raw_keys.as_ref()?.name(&fingerprint)?.clone();
        let identity = Identity::new(name, Proof::RawKey);
        Some(Authority {
            identity: Some(identity),
            raw_key: Some(Box::new(fingerprint)),
            ..Authority::default()
        })
    }

    fn by_certificate(&self, ssl: &SslRef, certificate: &X509Ref, chains: &Chains) -> Option<Authority> {
        let chain = if ssl.session_reused() {
            let notes = ssl.ex_data(notes_index().ok()?)?;
            Arc::clone(notes.redeeming.as_ref()?.chain.get()?)
        } else {
            chains.above(ssl.verified_chain()?, ssl.peer_cert_chain())?
        };
        self.certified(certificate, chain)
    }

    fn certified(&self, certificate: &X509Ref, chain: Arc<Chain>) -> Option<Authority> {
        let identity = Identity {
            attributes: certificates::attributes(certificate, &self.material.cert_attributes),
            ..Identity::new(self.cert_identity.name(certificate)?, Proof::Certificate)
        };
        Some(Authority {
            identity: Some(identity),
            certificate: Some(Box::new(Certified {
                mark: CertificateMark::of(certificate)?,
                not_after: certificates::unix_seconds(certificate.not_after())?,
                chain,
            })),
            ..Authority::default()
        })
    }

    /// Whether a session of this authority may go on.
    pub(super) fn still_authorizes(&self, authority: &Authority) -> bool {
        if let (Some(identity), Some(fingerprint)) = (&authority.identity, &authority.raw_key) {
            let name = self
                .material
                .raw_keys
                .as_ref()
                .and_then(|keys| keys.name(fingerprint));
            return name == Some(&identity.name);
        }
        match (&authority.identity, &authority.certificate) {
            (Some(identity), None) => {
                let keys = self.psks.as_ref().and_then(|psks| psks.named(&identity.name));
                match keys {
                    Some(keys) => keys.marked(authority.psk_mark).is_some(),
                    None => authority.has_live_key && self.material.live_keys,
                }
            }
            (_, Some(certified)) => {
                !self.revoked.contains(&certified.mark)
                    && !certificates::is_past(certified.not_after)
                    && self.trusts(&certified.chain)
            }
            (None, None) => self.verify != Verify::Required,
        }
    }

    /// Whether the issuers of a client's certificate are good here; looked at once for each chain. Where nobody is asked for a
    /// certificate any more, who has shown one keeps what it proved.
    fn trusts(&self, chain: &Chain) -> bool {
        let Some((store, at_hand)) = self.issuers.as_deref() else {
            return true;
        };
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        *verdicts
            .entry(chain.id())
            .or_insert_with(|| chain.is_good(store, at_hand, self.verify_depth).unwrap_or(false))
    }
}
