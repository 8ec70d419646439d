//! A request to begin with.

use portcullis_proto::policy::authentication::{AuthRequest, IdentityRole, Password};
use portcullis_proto::types::{ClientId, ListenerId, PeerAddr};

pub(super) fn request(user: &str, password: &str) -> AuthRequest {
    AuthRequest {
        ticket: 1,
        clientid: ClientId::new("c1"),
        username: Some(user.into()),
        password: Some(Password::new(password.as_bytes())),
        identity: None,
        identity_role: IdentityRole::None,
        peer: PeerAddr::new("127.0.0.1:40000".parse().unwrap()).unwrap(),
        listener: ListenerId(0),
    }
}
