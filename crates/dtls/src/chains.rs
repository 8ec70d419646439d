//! The issuers of client certificates: each chain kept once however many devices it stands for, and judged once by each
//! context, so that a reload can tell which sessions lost their ground.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::sha::{Sha256, sha256};
use openssl::stack::{Stack, StackRef};
use openssl::x509::store::{X509Store, X509StoreRef};
use openssl::x509::{X509, X509Ref, X509StoreContext};

use portcullis_proto::state::{ReadBytes, WriteBytes};

use super::shared::DtlsShared;

/// How many chains are kept at the same time. Only who has an authority that is trusted can add one.
const MAX_CHAINS: usize = 4096;

/// OpenSSL's verdicts that an issuer is missing: `X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT` and that of a local one.
const NO_ISSUER: [i32; 2] = [2, 20];

/// What names a chain: a hash over it.
pub(super) type ChainId = [u8; 32];

/// The certificates above a client's, its issuer first and the trust anchor last; of a client whose own certificate is a trust
/// anchor that one.
pub(super) struct Chain {
    id: ChainId,
    certificates: Vec<X509>,
    /// Which of them the client did not show: they have to be at hand here.
    own: Vec<CertificateHash>,
}

/// A hash over a certificate.
pub(super) type CertificateHash = [u8; 32];

/// What issuers are judged by: a store, and what it holds.
pub(super) type Issuers = (X509Store, HashSet<CertificateHash>);

/// The hash over a certificate.
pub(super) fn hash_of(certificate: &X509Ref) -> Option<CertificateHash> {
    Some(sha256(&certificate.to_der().ok()?))
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Chain").field(&self.certificates.len()).finish()
    }
}

impl PartialEq for Chain {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Chain {}

impl Chain {
    /// Of a path that was verified, the client's certificate first, and of what the client showed beside that.
    fn above(verified: &StackRef<X509>, shown: Option<&StackRef<X509>>) -> Option<Self> {
        let skip = usize::from(verified.len() > 1);
        let certificates: Vec<X509> = verified.iter().skip(skip).map(ToOwned::to_owned).collect();
        let shown: Vec<CertificateHash> = shown.into_iter().flatten().filter_map(hash_of).collect();
        let (mut id, mut own) = (Sha256::new(), Vec::new());
        for certificate in &certificates {
            let hash = hash_of(certificate)?;
            let is_own = !shown.contains(&hash);
            id.update(&hash);
            id.update(&[u8::from(is_own)]);
            own.extend(is_own.then_some(hash));
        }
        (!certificates.is_empty()).then(|| Self {
            id: id.finish(),
            certificates,
            own,
        })
    }

    /// Writes it down for the next process.
    pub(super) fn write(&self, out: &mut WriteBytes) -> Option<()> {
        out.raw(&self.id);
        for certificate in &self.certificates {
            let der = certificate.to_der().ok()?;
            out.u8(u8::from(self.own.contains(&sha256(&der)))).bytes(&der);
        }
        Some(())
    }

    /// The chain that an earlier process wrote down.
    fn read(bytes: &mut ReadBytes<'_>) -> Option<Self> {
        let written: ChainId = bytes.array()?;
        let (mut id, mut own, mut certificates) = (Sha256::new(), Vec::new(), Vec::new());
        while !bytes.0.is_empty() {
            let is_own = bytes.u8()? != 0;
            let der = bytes.bytes()?;
            let hash = sha256(der);
            id.update(&hash);
            id.update(&[u8::from(is_own)]);
            own.extend(is_own.then_some(hash));
            certificates.push(X509::from_der(der).ok()?);
        }
        let id = id.finish();
        (id == written && !certificates.is_empty()).then_some(Self {
            id,
            certificates,
            own,
        })
    }

    /// What names it, for what outlives it.
    pub(super) const fn id(&self) -> ChainId {
        self.id
    }

    /// Whether it leads to a trust anchor of `store`, which holds the certificates `at_hand`, with at most `depth` certificates
    /// before that.
    pub(super) fn is_good(
        &self,
        store: &X509StoreRef,
        at_hand: &HashSet<CertificateHash>,
        depth: u32,
    ) -> Result<bool, ErrorStack> {
        let Some((issuer, others)) = self.certificates.split_first() else {
            return Ok(false);
        };
        if others.len() > depth as usize || !self.own.iter().all(|hash| at_hand.contains(hash)) {
            return Ok(false);
        }
        let mut untrusted = Stack::new()?;
        for other in others {
            untrusted.push(other.clone())?;
        }
        X509StoreContext::new()?.init(store, issuer, &untrusted, |context| context.verify_cert())
    }
}

/// Every chain that some session stands on.
#[derive(Debug, Default)]
pub(super) struct Chains(Mutex<HashMap<ChainId, Arc<Chain>>>);

impl Chains {
    /// The chain above a client's certificate, of a path that was verified and what the client showed.
    pub(super) fn above(
        &self,
        verified: &StackRef<X509>,
        shown: Option<&StackRef<X509>>,
    ) -> Option<Arc<Chain>> {
        Some(self.intern(Chain::above(verified, shown)?))
    }

    fn intern(&self, chain: Chain) -> Arc<Chain> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(&chain.id) {
            return Arc::clone(known);
        }
        if all.len() >= MAX_CHAINS {
            all.retain(|_, chain| Arc::strong_count(chain) > 1);
        }
        let chain = Arc::new(chain);
        if all.len() < MAX_CHAINS {
            all.insert(chain.id, Arc::clone(&chain));
        }
        chain
    }

    /// The chain that an earlier process wrote down.
    pub(super) fn restore(&self, written: &[u8]) -> Option<Arc<Chain>> {
        Chain::read(&mut ReadBytes(written)).map(|chain| self.intern(chain))
    }

    /// The chain that was kept under this name, else the one that `store` finds above a certificate by itself.
    fn of(&self, id: &ChainId, certificate: &X509Ref, store: &X509StoreRef) -> Found {
        let known = |all: &HashMap<ChainId, Arc<Chain>>| all.get(id).cloned();
        let kept = known(&self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(kept) = kept {
            return Found::Chain(kept);
        }
        let found = Stack::new().and_then(|none| {
            X509StoreContext::new()?.init(store, certificate, &none, |context| {
                let is_good = context.verify_cert()?;
                let path = context.chain().filter(|_| is_good);
                Ok(match path.and_then(|path| self.above(path, None)) {
                    Some(chain) => Found::Chain(chain),
                    None if NO_ISSUER.contains(&context.error().as_raw()) => Found::Nothing,
                    None => Found::Bad,
                })
            })
        });
        found.unwrap_or(Found::Bad)
    }
}

/// What is known of the chain above a certificate.
enum Found {
    Chain(Arc<Chain>),
    /// An issuer is not at hand.
    Nothing,
    /// Whoever may show it is not let in by it.
    Bad,
}

/// What the ticket of a client with a certificate is redeemed by.
pub(super) struct Redeeming {
    /// The chains that are at hand.
    pub(super) shared: Arc<DtlsShared>,
    /// Nothing where clients are not asked for certificates.
    pub(super) issuers: Option<Arc<Issuers>>,
    /// The one that the ticket names, once it was redeemed.
    pub(super) chain: OnceLock<Arc<Chain>>,
}

impl fmt::Debug for Redeeming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redeeming")
            .field("chain", &self.chain)
            .finish_non_exhaustive()
    }
}

impl Redeeming {
    /// Whether a ticket may be redeemed: not where an issuer of its certificate is not at hand. Another process or node, which the
    /// client has shown its intermediates to, may have made it: they have to be shown here too.
    pub(super) fn redeem(&self, named: &[u8], certificate: &X509Ref) -> bool {
        let (Some(id), Some(issuers)) = (named.first_chunk(), &self.issuers) else {
            return false;
        };
        match self.shared.chains.of(id, certificate, &issuers.0) {
            Found::Chain(chain) => self.chain.set(chain).is_ok(),
            Found::Nothing => false,
            // The finished handshake is refused, and counted as what it is.
            Found::Bad => true,
        }
    }
}

/// What names the chain above a client's certificate, of a path that was verified and what the client showed.
pub(super) fn id_above(verified: &StackRef<X509>, shown: Option<&StackRef<X509>>) -> Option<ChainId> {
    Chain::above(verified, shown).map(|chain| chain.id())
}
