//! The cipher suites that a session may end up with: AEAD, and SHA-256 as the hash of the PRF.

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
        /// RFC 5289; C02B.
        EcdheEcdsaAes128Gcm = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        /// RFC 7251; C0AE. Mandatory in RFC 7252, 9.1.3.3.
        EcdheEcdsaAes128Ccm8 = "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        /// RFC 7251; C0AC.
        EcdheEcdsaAes128Ccm = "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
        /// RFC 7905; CCA9.
        EcdheEcdsaChaCha20 = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        /// RFC 5289; C02F.
        EcdheRsaAes128Gcm = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        /// RFC 7905; CCA8.
        EcdheRsaChaCha20 = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
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
}

impl Algorithm {
    /// Bytes of key.
    #[must_use]
    pub const fn key_len(self) -> usize {
        match self {
            Self::Gcm | Self::Ccm | Self::Ccm8 => 16,
            Self::ChaCha20 => 32,
        }
    }

    /// Bytes of the nonce that come from the key block.
    #[must_use]
    pub const fn iv_len(self) -> usize {
        12 - self.explicit_len()
    }

    /// Bytes of the nonce that stand in each record.
    #[must_use]
    pub const fn explicit_len(self) -> usize {
        match self {
            Self::Gcm | Self::Ccm | Self::Ccm8 => 8,
            Self::ChaCha20 => 0,
        }
    }

    /// Bytes of tag.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::Gcm | Self::Ccm | Self::ChaCha20 => 16,
            Self::Ccm8 => 8,
        }
    }

    /// How many records may fail to open before the keys are given up (RFC 9147, 4.5.3 and appendix B). For CCM_8 the
    /// RFC leaves the number to what else keeps forgers away, which is [`Self::failures_per_second`].
    #[must_use]
    pub const fn failure_limit(self) -> u64 {
        match self {
            Self::Gcm | Self::ChaCha20 => 1 << 36,
            Self::Ccm => 11_863_283,
            Self::Ccm8 => 1 << 20,
        }
    }

    /// How many records of one session may fail to open within a second; what comes then is not tried. Only a tag of 8
    /// bytes needs it.
    #[must_use]
    pub const fn failures_per_second(self) -> Option<u32> {
        match self {
            Self::Gcm | Self::Ccm | Self::ChaCha20 => None,
            Self::Ccm8 => Some(1 << 7),
        }
    }
}

impl Suite {
    /// Its number at IANA.
    #[must_use]
    pub const fn id(self) -> [u8; 2] {
        match self {
            Self::EcdheEcdsaAes128Gcm => [0xc0, 0x2b],
            Self::EcdheEcdsaAes128Ccm8 => [0xc0, 0xae],
            Self::EcdheEcdsaAes128Ccm => [0xc0, 0xac],
            Self::EcdheEcdsaChaCha20 => [0xcc, 0xa9],
            Self::EcdheRsaAes128Gcm => [0xc0, 0x2f],
            Self::EcdheRsaChaCha20 => [0xcc, 0xa8],
            Self::EcdhePskChaCha20 => [0xcc, 0xac],
            Self::PskAes128Gcm => [0x00, 0xa8],
            Self::PskAes128Ccm8 => [0xc0, 0xa8],
            Self::PskAes128Ccm => [0xc0, 0xa4],
            Self::PskChaCha20 => [0xcc, 0xab],
        }
    }

    /// OpenSSL's name for it.
    #[must_use]
    pub const fn openssl_name(self) -> &'static str {
        match self {
            Self::EcdheEcdsaAes128Gcm => "ECDHE-ECDSA-AES128-GCM-SHA256",
            Self::EcdheEcdsaAes128Ccm8 => "ECDHE-ECDSA-AES128-CCM8",
            Self::EcdheEcdsaAes128Ccm => "ECDHE-ECDSA-AES128-CCM",
            Self::EcdheEcdsaChaCha20 => "ECDHE-ECDSA-CHACHA20-POLY1305",
            Self::EcdheRsaAes128Gcm => "ECDHE-RSA-AES128-GCM-SHA256",
            Self::EcdheRsaChaCha20 => "ECDHE-RSA-CHACHA20-POLY1305",
            Self::EcdhePskChaCha20 => "ECDHE-PSK-CHACHA20-POLY1305",
            Self::PskAes128Gcm => "PSK-AES128-GCM-SHA256",
            Self::PskAes128Ccm8 => "PSK-AES128-CCM8",
            Self::PskAes128Ccm => "PSK-AES128-CCM",
            Self::PskChaCha20 => "PSK-CHACHA20-POLY1305",
        }
    }

    /// The suite with this number, if it is one of ours.
    #[must_use]
    pub fn from_id(id: [u8; 2]) -> Option<Self> {
        Self::ALL.iter().copied().find(|suite| suite.id() == id)
    }

    /// What protects its records.
    #[must_use]
    pub const fn algorithm(self) -> Algorithm {
        match self {
            Self::EcdheEcdsaAes128Gcm | Self::EcdheRsaAes128Gcm | Self::PskAes128Gcm => Algorithm::Gcm,
            Self::EcdheEcdsaAes128Ccm | Self::PskAes128Ccm => Algorithm::Ccm,
            Self::EcdheEcdsaAes128Ccm8 | Self::PskAes128Ccm8 => Algorithm::Ccm8,
            Self::EcdheEcdsaChaCha20
            | Self::EcdheRsaChaCha20
            | Self::EcdhePskChaCha20
            | Self::PskChaCha20 => Algorithm::ChaCha20,
        }
    }

    /// What the peers authenticate with.
    #[must_use]
    pub const fn key_exchange(self) -> KeyExchange {
        match self {
            Self::EcdheEcdsaAes128Gcm
            | Self::EcdheEcdsaAes128Ccm8
            | Self::EcdheEcdsaAes128Ccm
            | Self::EcdheEcdsaChaCha20 => KeyExchange::EcdheEcdsa,
            Self::EcdheRsaAes128Gcm | Self::EcdheRsaChaCha20 => KeyExchange::EcdheRsa,
            Self::EcdhePskChaCha20 => KeyExchange::EcdhePsk,
            Self::PskAes128Gcm | Self::PskAes128Ccm8 | Self::PskAes128Ccm | Self::PskChaCha20 => {
                KeyExchange::Psk
            }
        }
    }
}
