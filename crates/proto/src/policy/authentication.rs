//! The contract between the gateway and the authentication backends.
//!
//! The gateway makes an [`AuthRequest`] and goes on; a backend answers with one [`Verdict`] that carries the request's
//! ticket, from outside the worker. When no backend can take the request it is [`Verdict::Unavailable`] at once: 5.03.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::labels;
use crate::types::{ClientId, Identity, ListenerId, PeerAddr};

use super::attributes::Attributes;
use super::extra_acl::ExtraAcl;

/// Longest user name in bytes that is looked up.
pub const MAX_USERNAME: usize = 512;

/// Longest password in bytes that is looked at: a JSON Web Token with an ACL fits. Longer ones are wrong.
pub const MAX_PASSWORD: usize = 16_384;

/// A password, or a token in its place. Wiped when dropped and never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Zeroizing<Box<[u8]>>);

impl Password {
    /// Takes a copy of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.into()))
    }

    /// The bytes of it.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// What the identity that a DTLS handshake proved stands for on a listener (interface 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IdentityRole {
    /// It only protects the channel.
    #[default]
    None,
    /// It is the client id: credentials need not be given, but if they are they must be right.
    ClientId,
    /// It is the user name, and no password is asked.
    Username,
}

/// Someone wants in. It prints neither user name nor password: where tokens are used, either may be one.
#[derive(Clone)]
pub struct AuthRequest {
    /// Comes back with the verdict; unique for one worker over the life of the process.
    pub ticket: u64,
    /// The client id, if one was named or proved.
    pub clientid: Option<ClientId>,
    /// The user name: as given, or with [`IdentityRole::Username`] the identity.
    pub username: Option<Arc<str>>,
    /// The password as given.
    pub password: Option<Password>,
    /// What the DTLS handshake proved.
    pub identity: Option<Identity>,
    /// What that identity stands for.
    pub identity_role: IdentityRole,
    /// Where the request came from.
    pub peer: PeerAddr,
    /// Which listener it came to.
    pub listener: ListenerId,
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest")
            .field("ticket", &self.ticket)
            .field("clientid", &self.clientid)
            .field("peer", &self.peer)
            .field("listener", &self.listener)
            .finish_non_exhaustive()
    }
}

impl AuthRequest {
    /// Whether the DTLS handshake alone proves this client, so that no password is asked.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        self.identity.is_some()
            && match self.identity_role {
                IdentityRole::None => false,
                IdentityRole::ClientId => self.username.is_none() && self.password.is_none(),
                IdentityRole::Username => true,
            }
    }
}

labels! {
    /// Why someone was not let in. For logs and metrics: what the client is told is [`DenyReason::wording`], which
    /// is the same for a wrong user and a wrong password.
    pub enum DenyReason {
        /// No user name, no password, or no token was given.
        MissingCredentials = "missing_credentials",
        /// The user does not exist or the password is not theirs.
        BadCredentials = "bad_credentials",
        /// The token is malformed, not signed by a known key, or lacks a required claim.
        BadToken = "bad_token",
        /// The credential's time is over, or has not come yet.
        Expired = "expired",
        /// The authentication server said no.
        Refused = "refused",
    }
}

impl DenyReason {
    /// The reason in `Login Failed: <reason>`.
    #[must_use]
    pub const fn wording(self) -> &'static str {
        match self {
            Self::MissingCredentials => "missing credentials",
            Self::BadCredentials | Self::BadToken | Self::Refused => "bad username or password",
            Self::Expired => "credentials expired",
        }
    }
}

/// The answer to an [`AuthRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// Let in.
    Allow {
        /// The credential is good for this long from now: then the connection ends. `None` for ever.
        expires_in: Option<Duration>,
        /// Whether the ACL does not concern this client.
        superuser: bool,
        /// Rules that come with the credential.
        acl: Option<Arc<ExtraAcl>>,
        /// What the backend knows of the client beside.
        attributes: Attributes,
    },
    /// Not let in: 4.01.
    Deny(DenyReason),
    /// Nobody can tell now: 5.03. Not a failed login.
    Unavailable,
}

impl Verdict {
    /// Let in, for ever, as an ordinary client.
    #[must_use]
    pub fn allow() -> Self {
        Self::Allow {
            expires_in: None,
            superuser: false,
            acl: None,
            attributes: Attributes::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Proof;
    use crate::types::reason::Label;

    fn request() -> AuthRequest {
        AuthRequest {
            ticket: 1,
            clientid: ClientId::new("c"),
            username: Some("ann".into()),
            password: Some(Password::new(b"hunter2")),
            identity: None,
            identity_role: IdentityRole::None,
            peer: PeerAddr::new("127.0.0.1:1".parse().unwrap()).unwrap(),
            listener: ListenerId(0),
        }
    }

    #[test]
    fn a_request_prints_without_its_password() {
        let text = format!("{:?} {:#?}", request(), request());
        assert!(!text.contains("hunter2") && !text.contains("104"), "{text}");
    }

    #[test]
    fn a_wrong_user_reads_like_a_wrong_password() {
        assert_eq!(
            DenyReason::BadCredentials.wording(),
            DenyReason::Refused.wording()
        );
        for reason in DenyReason::ALL {
            assert!(!reason.wording().contains("unknown user"), "{reason:?}");
        }
    }

    #[test]
    fn an_identity_that_is_the_client_id_does_not_excuse_a_wrong_password() {
        let identity = Some(Identity::new("c", Proof::Psk));
        let mut asked = AuthRequest {
            identity,
            identity_role: IdentityRole::ClientId,
            ..request()
        };
        assert!(!asked.is_proved());
        asked.username = None;
        asked.password = None;
        assert!(asked.is_proved());
        asked.identity = None;
        assert!(!asked.is_proved());
    }
}
