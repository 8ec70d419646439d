//! CBOR Web Tokens as the payload of a login.

use coset::cbor::Value;
use coset::iana::Algorithm;
use coset::{CborSerializable as _, CoseMac0Builder, HeaderBuilder, TaggedCborSerializable as _};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

use crate::support::jwt::in_seconds;
use crate::support::{Config, Gateway, Kind, Request, code};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// Content-Format of `application/cwt`.
const CWT: u32 = 61;

fn gateway(more: &str) -> Gateway {
    let config = Config::new()
        .set("authentication", "backend = \"jwt\"")
        .set("authentication.jwt", &format!("key_file = \"jwt.key\"\n{more}"))
        .file("jwt.key", SECRET);
    Gateway::start(config)
}

fn token(secret: &str, algorithm: Algorithm, claims: &[(i64, Value)]) -> Vec<u8> {
    let members = claims
        .iter()
        .map(|(label, value)| (Value::from(*label), value.clone()));
    let payload = Value::Map(members.collect()).to_vec().unwrap();
    let key = PKey::hmac(secret.as_bytes()).unwrap();
    CoseMac0Builder::new()
        .protected(HeaderBuilder::new().algorithm(algorithm).build())
        .payload(payload)
        .create_tag(b"", |message| {
            Signer::new(MessageDigest::sha256(), &key)
                .unwrap()
                .sign_oneshot_to_vec(message)
                .unwrap()
        })
        .build()
        .to_tagged_vec()
        .unwrap()
}

/// A good token of a subject.
fn of(subject: &str) -> Vec<u8> {
    let claims = [(2, subject.into()), (4, in_seconds(3600).into())];
    token(SECRET, Algorithm::HMAC_256_256, &claims)
}

#[test]
fn a_cbor_token_is_a_login_by_itself() {
    for from in ["", "from = \"username\"\n"] {
        let gateway = gateway(from);
        let mut client = gateway.client(Kind::Udp);
        let create = |token: &[u8]| Request::post("mqtt/connection").format(CWT).payload(token);
        let answer = client.request(&create(&of("m-61"))).expect(code::CREATED);
        let path = format!("ps/t?clientid=m-61&token={}", answer.text());
        client
            .request(&Request::put(&path).payload("x"))
            .expect(code::CHANGED);
        let tagged = [&[0xd8, 61][..], &of("m-62")].concat();
        client.request(&create(&tagged)).expect(code::CREATED);
        let end = (4, in_seconds(3600).into());
        for (what, wrong) in [
            (
                "no end",
                token(SECRET, Algorithm::HMAC_256_256, &[(2, "m".into())]),
            ),
            (
                "over",
                token(
                    SECRET,
                    Algorithm::HMAC_256_256,
                    &[(2, "m".into()), (4, 1000.into())],
                ),
            ),
            (
                "another key",
                token(
                    "another secret of thirty-two bytes",
                    Algorithm::HMAC_256_256,
                    &[(2, "m".into()), end.clone()],
                ),
            ),
            (
                "another algorithm",
                token(SECRET, Algorithm::HMAC_256_64, &[(2, "m".into()), end.clone()]),
            ),
            (
                "claims twice",
                token(
                    SECRET,
                    Algorithm::HMAC_256_256,
                    &[(2, "m".into()), (2, "n".into()), end],
                ),
            ),
        ] {
            let named = Request::post("mqtt/connection?c=m").format(CWT).payload(wrong);
            assert_eq!(client.request(&named).code, code::UNAUTHORIZED, "{what}");
        }
        for odd in [
            &b"\xd1\x84"[..],
            b"eyJhbGciOiJIUzI1NiJ9.e30.x",
            &[0xd1; 900],
            b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            let named = Request::post("mqtt/connection?c=m").format(CWT).payload(odd);
            client.request(&named).expect(code::UNAUTHORIZED);
            client.request(&create(odd)).expect(code::BAD_REQUEST);
        }
        let twice = Request::post("mqtt/connection?p=x")
            .format(CWT)
            .payload(of("m-63"));
        client
            .request(&twice)
            .expect(code::BAD_REQUEST)
            .naming("password");
        let mut new = gateway.client(Kind::Udp);
        new.request(&create(&of("m-64"))).expect(code::CREATED);
        client
            .request(&Request::put(&path).payload("x"))
            .expect(code::CHANGED);
    }
}

#[test]
fn a_cbor_token_lets_in_a_session() {
    let gateway = gateway("required_claims = { sub = \"${clientid}\" }\n");
    let mut client = gateway.client(Kind::Dtls);
    let publish = Request::put("ps/t").payload("x");
    client.request(&publish).expect(code::UNAUTHORIZED);
    let bind = Request::post("auth/jwt").format(CWT).payload(of("m-65"));
    let bound = client.request(&bind).expect(code::CREATED);
    let max_age = bound.uint(14).unwrap();
    assert!((3000..=3600).contains(&max_age), "{max_age}");
    client.request(&publish).expect(code::CHANGED);
    let other = Request::post("auth/jwt?c=m-66").format(CWT).payload(of("m-65"));
    client.request(&other).expect(code::UNAUTHORIZED);
}
