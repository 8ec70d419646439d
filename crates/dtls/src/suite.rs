//! The cipher suites that a session may end up with: AEAD, and for old devices CBC.

use portcullis_proto::labels;
use portcullis_proto::types::reason::Label;

labels! {
    /// A cipher suite, by its name at IANA; best first. Those with a pre-shared key come before those with a certificate: who
    /// offers one has a key and is known by it, while a certificate suite would leave the same device without an identity.
    pub enum Suite {
        /// RFC 7905; CCAC.
        EcdhePskChaCha20 = "TLS_ECDHE_PSK_WITH_CHACHA20_POLY1305_SHA256",
        /// RFC 5487; 00A8.
        PskAes128Gcm = "TLS_PSK_WITH_AES_128_GCM_SHA256",
        /// RFC 6655; C0A8. Mandatory in RFC 7252, 9.1.3.1.
        PskAes128Ccm8 = "TLS_PSK_WITH_AES_128_CCM_8",
        /// RFC 6655; C0A4.
        PskAes128Ccm = "TLS_PSK_WITH_AES_128_CCM",
        /// RFC 7905; CCAB.
        PskChaCha20 = "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256",
        /// RFC 5487; 00A9.
        PskAes256Gcm = "TLS_PSK_WITH_AES_256_GCM_SHA384",
        /// RFC 6655; C0A9.
        PskAes256Ccm8 = "TLS_PSK_WITH_AES_256_CCM_8",
        /// RFC 6655; C0A5.
        PskAes256Ccm = "TLS_PSK_WITH_AES_256_CCM",
        /// RFC 5489; C037. Legacy: with `legacy_cbc` only.
        EcdhePskAes128Cbc = "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
        /// RFC 5487; 00AE. Legacy: with `legacy_cbc` only.
        PskAes128Cbc = "TLS_PSK_WITH_AES_128_CBC_SHA256",
        /// RFC 5289; C02B.
        EcdheEcdsaAes128Gcm = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        /// RFC 7251; C0AE. Mandatory in RFC 7252, 9.1.3.3.
        EcdheEcdsaAes128Ccm8 = "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        /// RFC 7251; C0AC.
        EcdheEcdsaAes128Ccm = "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
        /// RFC 7905; CCA9.
        EcdheEcdsaChaCha20 = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        /// RFC 5289; C02C.
        EcdheEcdsaAes256Gcm = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        /// RFC 7251; C0AF.
        EcdheEcdsaAes256Ccm8 = "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8",
        /// RFC 7251; C0AD.
        EcdheEcdsaAes256Ccm = "TLS_ECDHE_ECDSA_WITH_AES_256_CCM",
        /// RFC 5289; C02F.
        EcdheRsaAes128Gcm = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        /// RFC 7905; CCA8.
        EcdheRsaChaCha20 = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        /// RFC 5289; C030.
        EcdheRsaAes256Gcm = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        /// RFC 5289; C023. Legacy: with `legacy_cbc` only.
        EcdheEcdsaAes128Cbc = "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        /// RFC 5289; C027. Legacy: with `legacy_cbc` only.
        EcdheRsaAes128Cbc = "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    }
}

/// What the peers authenticate with in a suite; the cheapest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyExchange {
    /// A pre-shared key alone.
    Psk,
    /// A pre-shared key and an ephemeral exchange.
    EcdhePsk,
    /// An ephemeral exchange signed with an ECDSA certificate.
    EcdheEcdsa,
    /// An ephemeral exchange signed with an RSA certificate.
    EcdheRsa,
}

impl KeyExchange {
    /// Whether the client proves itself by a pre-shared key.
    #[must_use]
    pub const fn uses_psk(self) -> bool {
        matches!(self, Self::Psk | Self::EcdhePsk)
    }
}

/// The AEAD of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// AES-128-GCM (RFC 5288).
    Gcm,
    /// AES-128-CCM with a tag of 16 bytes (RFC 6655).
    Ccm,
    /// AES-128-CCM with a tag of 8 bytes (RFC 6655).
    Ccm8,
    /// ChaCha20-Poly1305 (RFC 7905).
    ChaCha20,
    /// AES-256-GCM (RFC 5288), whose suites hash with SHA-384.
    Aes256Gcm,
    /// AES-256-CCM with a tag of 16 bytes (RFC 6655).
    Aes256Ccm,
    /// AES-256-CCM with a tag of 8 bytes (RFC 6655).
    Aes256Ccm8,
}

/// The hash of a suite's PRF (RFC 5246, 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrfHash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

impl Algorithm {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// The hash that the keys are derived with.
    #[must_use]
    pub(crate) const fn prf_hash(self) -> PrfHash {
        match self {
            Self::Aes256Gcm => PrfHash::Sha384,
            _ => PrfHash::Sha256,
        }
    }

    /// Whether it is a CCM, which wants to know the length beforehand.
    #[must_use]
    pub(crate) const fn is_ccm(self) -> bool {
        matches!(self, Self::Ccm | Self::Ccm8 | Self::Aes256Ccm | Self::Aes256Ccm8)
    }

    /// Bytes of key.
    #[must_use]
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Gcm | Self::Ccm | Self::Ccm8 => 16,
            Self::ChaCha20 | Self::Aes256Gcm | Self::Aes256Ccm | Self::Aes256Ccm8 => 32,
        }
    }

    /// Bytes of the nonce that come from the key block.
    #[must_use]
    pub(crate) const fn iv_len(self) -> usize {
        12 - self.explicit_len()
    }

    /// Bytes of the nonce that stand in each record.
    #[must_use]
    pub(crate) const fn explicit_len(self) -> usize {
        match self {
            Self::ChaCha20 => 0,
            _ => 8,
        }
    }

    /// Bytes of tag.
    #[must_use]
    pub(crate) const fn tag_len(self) -> usize {
        match self {
            Self::Ccm8 | Self::Aes256Ccm8 => 8,
            _ => 16,
        }
    }

    /// How many records may fail to open before the keys are given up (RFC 9147, 4.5.3 and appendix B). For CCM_8 the
    /// RFC leaves the number to what else keeps forgers away, which is `failures_per_second`.
    #[must_use]
    pub const fn failure_limit(self) -> u64 {
        match self {
            Self::Gcm | Self::ChaCha20 | Self::Aes256Gcm => 1 << 36,
            Self::Ccm | Self::Aes256Ccm => 11_863_283,
            Self::Ccm8 | Self::Aes256Ccm8 => 1 << 20,
        }
    }

    /// How many records may be sealed with one key (RFC 8446, 5.5; RFC 9147, 4.5.3).
    #[must_use]
    pub(crate) const fn seal_limit(self) -> u64 {
        match self {
            Self::Gcm | Self::Aes256Gcm => 23_726_566,
            Self::Ccm | Self::Ccm8 | Self::Aes256Ccm | Self::Aes256Ccm8 => 1 << 23,
            Self::ChaCha20 => u64::MAX,
        }
    }

    /// How many records of one session may fail to open within a second; what comes then is not tried. Only a tag of 8
    /// bytes needs it.
    #[must_use]
    pub(crate) const fn failures_per_second(self) -> Option<u32> {
        match self {
            Self::Ccm8 | Self::Aes256Ccm8 => Some(1 << 7),
            _ => None,
        }
    }
}

impl Suite {
    /// Its number at IANA.
    #[must_use]
    pub const fn id(self) -> [u8; 2] {
        self.parts().0
    }

    /// OpenSSL's name for it.
    #[must_use]
    pub const fn openssl_name(self) -> &'static str {
        self.parts().1
    }

    /// What protects its records; nothing where OpenSSL's own records do, with CBC.
    #[must_use]
    pub const fn algorithm(self) -> Option<Algorithm> {
        self.parts().3
    }

    /// Whether it is one of CBC, for devices that have nothing else.
    #[must_use]
    pub const fn is_legacy(self) -> bool {
        self.algorithm().is_none()
    }

    /// What the peers authenticate with.
    #[must_use]
    pub const fn key_exchange(self) -> KeyExchange {
        self.parts().2
    }

    const fn parts(self) -> ([u8; 2], &'static str, KeyExchange, Option<Algorithm>) {
        use Algorithm::{Aes256Ccm, Aes256Ccm8, Aes256Gcm, Ccm, Ccm8, ChaCha20, Gcm};
        use KeyExchange::{EcdheEcdsa, EcdhePsk, EcdheRsa, Psk};
        let (id, name, exchange, algorithm) = match self {
            Self::EcdhePskAes128Cbc => return ([0xc0, 0x37], "ECDHE-PSK-AES128-CBC-SHA256", EcdhePsk, None),
            Self::PskAes128Cbc => return ([0x00, 0xae], "PSK-AES128-CBC-SHA256", Psk, None),
            Self::EcdheEcdsaAes128Cbc => {
                return ([0xc0, 0x23], "ECDHE-ECDSA-AES128-SHA256", EcdheEcdsa, None);
            }
            Self::EcdheRsaAes128Cbc => return ([0xc0, 0x27], "ECDHE-RSA-AES128-SHA256", EcdheRsa, None),
            Self::EcdhePskChaCha20 => ([0xcc, 0xac], "ECDHE-PSK-CHACHA20-POLY1305", EcdhePsk, ChaCha20),
            Self::PskAes128Gcm => ([0x00, 0xa8], "PSK-AES128-GCM-SHA256", Psk, Gcm),
            Self::PskAes128Ccm8 => ([0xc0, 0xa8], "PSK-AES128-CCM8", Psk, Ccm8),
            Self::PskAes128Ccm => ([0xc0, 0xa4], "PSK-AES128-CCM", Psk, Ccm),
            Self::PskChaCha20 => ([0xcc, 0xab], "PSK-CHACHA20-POLY1305", Psk, ChaCha20),
            Self::PskAes256Gcm => ([0x00, 0xa9], "PSK-AES256-GCM-SHA384", Psk, Aes256Gcm),
            Self::PskAes256Ccm8 => ([0xc0, 0xa9], "PSK-AES256-CCM8", Psk, Aes256Ccm8),
            Self::PskAes256Ccm => ([0xc0, 0xa5], "PSK-AES256-CCM", Psk, Aes256Ccm),
            Self::EcdheEcdsaAes128Gcm => ([0xc0, 0x2b], "ECDHE-ECDSA-AES128-GCM-SHA256", EcdheEcdsa, Gcm),
            Self::EcdheEcdsaAes128Ccm8 => ([0xc0, 0xae], "ECDHE-ECDSA-AES128-CCM8", EcdheEcdsa, Ccm8),
            Self::EcdheEcdsaAes128Ccm => ([0xc0, 0xac], "ECDHE-ECDSA-AES128-CCM", EcdheEcdsa, Ccm),
            Self::EcdheEcdsaChaCha20 => (
                [0xcc, 0xa9],
                "ECDHE-ECDSA-CHACHA20-POLY1305",
                EcdheEcdsa,
                ChaCha20,
            ),
            Self::EcdheEcdsaAes256Gcm => (
                [0xc0, 0x2c],
                "ECDHE-ECDSA-AES256-GCM-SHA384",
                EcdheEcdsa,
                Aes256Gcm,
            ),
            Self::EcdheEcdsaAes256Ccm8 => ([0xc0, 0xaf], "ECDHE-ECDSA-AES256-CCM8", EcdheEcdsa, Aes256Ccm8),
            Self::EcdheEcdsaAes256Ccm => ([0xc0, 0xad], "ECDHE-ECDSA-AES256-CCM", EcdheEcdsa, Aes256Ccm),
            Self::EcdheRsaAes128Gcm => ([0xc0, 0x2f], "ECDHE-RSA-AES128-GCM-SHA256", EcdheRsa, Gcm),
            Self::EcdheRsaChaCha20 => ([0xcc, 0xa8], "ECDHE-RSA-CHACHA20-POLY1305", EcdheRsa, ChaCha20),
            Self::EcdheRsaAes256Gcm => ([0xc0, 0x30], "ECDHE-RSA-AES256-GCM-SHA384", EcdheRsa, Aes256Gcm),
        };
        (id, name, exchange, Some(algorithm))
    }

    /// The suite with this number, if it is one of ours.
    #[must_use]
    pub fn from_id(id: [u8; 2]) -> Option<Self> {
        Self::ALL.iter().copied().find(|suite| suite.id() == id)
    }
}
