//! Published and made tokens, and what must not pass.

use coset::iana::Algorithm as Alg;
use coset::{CborSerializable as _, CoseMac0Builder, CoseSign1Builder, HeaderBuilder};
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use serde_json::json;

use super::super::jws::tests::{ec_key, es256, hs256};
use super::*;

const SECRET: &[u8] = b"a secret of thirty-two bytes....";

fn bytes(value: &Cbor) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

fn map(members: &[(i64, Cbor)]) -> Cbor {
    let member = |(label, value): &(i64, Cbor)| (Cbor::from(*label), value.clone());
    Cbor::Map(members.iter().map(member).collect())
}

fn good() -> Cbor {
    map(&[
        (2, "c1".into()),
        (4, 2_000_000_000_u64.into()),
        (7, Cbor::Bytes(vec![0x0b, 0x71])),
    ])
}

fn header(algorithm: Alg) -> Header {
    HeaderBuilder::new().algorithm(algorithm).build()
}

/// A MACed token of any headers and any payload.
fn maced(protected: Header, open: Header, payload: &[u8]) -> CoseMac0 {
    CoseMac0Builder::new()
        .protected(protected)
        .unprotected(open)
        .payload(payload.to_vec())
        .create_tag(b"", |message| hs256(SECRET, message))
        .build()
}

fn mac_of(payload: &[u8]) -> Vec<u8> {
    let message = maced(header(Alg::HMAC_256_256), Header::default(), payload);
    message.to_tagged_vec().unwrap()
}

fn signed(key: &PKey<Private>, algorithm: Alg, payload: &[u8]) -> CoseSign1 {
    CoseSign1Builder::new()
        .protected(header(algorithm))
        .payload(payload.to_vec())
        .create_signature(b"", |message| match key.id() {
            openssl::pkey::Id::EC => es256(key, message),
            _ => Signer::new_without_digest(key)
                .unwrap()
                .sign_oneshot_to_vec(message)
                .unwrap(),
        })
        .build()
}

fn secret() -> KeySet {
    KeySet::single(Key::secret(zeroize::Zeroizing::new(SECRET.to_vec())).unwrap())
}

fn public(key: &PKey<Private>) -> KeySet {
    KeySet::single(Key::from_pem(&key.public_key_to_pem().unwrap()).unwrap())
}

#[test]
fn the_signed_example_of_rfc_8392_is_right() {
    let jwk = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "kid": "AsymmetricECDSA256",
        "x": Base64UrlUnpadded::encode_string(&hex::decode("143329cce7868e416927599cf65a34f3ce2ffda55a7eca69ed8919a394d42f0f").unwrap()),
        "y": Base64UrlUnpadded::encode_string(&hex::decode("60f7f1a780d8a783bfb7a2dd6b2796e8128dbbcef9d3d168db9529971a36e7b9").unwrap()),
    }]});
    let keys = KeySet::from_jwks(jwk.to_string().as_bytes()).unwrap();
    let token = hex::decode(concat!(
        "d28443a10126a104524173796d6d657472696345434453413235365850a70175636f61703a2f2f61732e6578616d706c652e636f6d",
        "02656572696b77037818636f61703a2f2f6c696768742e6578616d706c652e636f6d041a5612aeb0051a5610d9f0061a5610d9f007",
        "420b7158405427c1ff28d23fbad1f29c4c7c6a555e601d6fa29f9179bc3d7438bacaca5acd08c8d4d4f96131680c429a01f85951ec",
        "ee743a52b9b63632c57209120e1c9e30"
    ))
    .unwrap();
    assert!(is_cbor(&token) && !is_cbor(b"eyJhbGciOi"));
    let wanted = json!({
        "iss": "coap://as.example.com", "sub": "erikw", "aud": "coap://light.example.com",
        "exp": 1_444_064_944, "nbf": 1_443_944_944, "iat": 1_443_944_944, "cti": "C3E",
    });
    assert_eq!(Value::from(verify(&keys, &token).unwrap()), wanted);
    let outer = [&[0xd8, 61][..], &token].concat();
    assert_eq!(Value::from(verify(&keys, &outer).unwrap()), wanted);
    for at in [5, 60, token.len() - 1] {
        let mut other = token.clone();
        other[at] ^= 1;
        assert!(verify(&keys, &other).is_err(), "{at}");
    }
}

#[test]
fn each_algorithm_takes_its_own_key_and_no_other() {
    let payload = bytes(&good());
    let (ec, ed) = (ec_key(), PKey::generate_ed25519().unwrap());
    let tokens = [
        mac_of(&payload),
        signed(&ec, Alg::ES256, &payload).to_tagged_vec().unwrap(),
        signed(&ed, Alg::EdDSA, &payload).to_tagged_vec().unwrap(),
    ];
    for (at, keys) in [secret(), public(&ec), public(&ed)].iter().enumerate() {
        for (of, token) in tokens.iter().enumerate() {
            assert_eq!(verify(keys, token).is_ok(), at == of, "{at} {of}");
        }
    }
    // A public key is no secret, whatever the message calls it.
    let pem = ec.public_key_to_pem().unwrap();
    let passed_off = CoseMac0Builder::new()
        .protected(header(Alg::HMAC_256_256))
        .payload(payload.clone())
        .create_tag(b"", |message| hs256(&pem, message))
        .build();
    assert!(verify(&public(&ec), &passed_off.to_tagged_vec().unwrap()).is_err());
}

#[test]
fn an_algorithm_that_is_another_unprotected_or_of_the_other_kind_is_refused() {
    let payload = bytes(&good());
    let right = || header(Alg::HMAC_256_256);
    let none = Header::default;
    for (protected, open) in [
        (header(Alg::HMAC_256_64), none()),
        (header(Alg::HMAC_384_384), none()),
        (header(Alg::ES256), none()),
        (header(Alg::A128GCM), none()),
        (none(), right()),
        (none(), none()),
        (right(), right()),
        (
            HeaderBuilder::new()
                .algorithm(Alg::HMAC_256_256)
                .add_critical(coset::iana::HeaderParameter::Kid)
                .build(),
            none(),
        ),
    ] {
        let token = maced(protected.clone(), open, &payload).to_tagged_vec().unwrap();
        assert!(verify(&secret(), &token).is_err(), "{protected:?}");
    }
    let short = CoseMac0Builder::new()
        .protected(right())
        .payload(payload)
        .create_tag(b"", |message| hs256(SECRET, message)[..8].to_vec())
        .build();
    assert!(
        verify(&secret(), &short.to_tagged_vec().unwrap()).is_err(),
        "a MAC cut short"
    );
}

#[test]
fn tags_that_are_missing_nested_or_of_others_are_refused() {
    let message = maced(header(Alg::HMAC_256_256), Header::default(), &bytes(&good()));
    let untagged = message.clone().to_vec().unwrap();
    let tagged = message.to_tagged_vec().unwrap();
    assert!(verify(&secret(), &tagged).is_ok());
    let cwt = [&[0xd8, 61][..], &tagged].concat();
    for (what, token) in [
        ("no tag", untagged.clone()),
        ("CWT without COSE", [&[0xd8, 61][..], &untagged].concat()),
        ("CWT twice", [&[0xd8, 61][..], &cwt].concat()),
        ("COSE twice", [&[0xd1][..], &tagged].concat()),
        ("COSE around CWT", [&[0xd1][..], &cwt].concat()),
        ("Sign1 for Mac0", [&[0xd2][..], &untagged].concat()),
        ("Encrypt0", [&[0xd0][..], &untagged].concat()),
        ("more behind it", [&tagged[..], &[0]].concat()),
        ("cut short", tagged[..tagged.len() - 1].to_vec()),
        ("a token in the token", mac_of(&tagged)),
        ("ten thousand tags", vec![0xd1; 10_000]),
        ("ten thousand lists", vec![0x81; 10_000]),
        ("nothing", Vec::new()),
    ] {
        assert!(verify(&secret(), &token).is_err(), "{what}");
    }
    let mut detached = maced(header(Alg::HMAC_256_256), Header::default(), b"");
    detached.payload = None;
    assert!(
        verify(&secret(), &detached.to_tagged_vec().unwrap()).is_err(),
        "no payload"
    );
}

#[test]
fn what_is_said_twice_or_has_no_counterpart_is_refused() {
    let deep = (0..MAX_DEPTH + 2).fold(Cbor::Null, |inner, _| Cbor::Array(vec![inner]));
    let text = |name: &str, value: Cbor| Cbor::Map(vec![(name.into(), value)]);
    let twice = |first: Cbor, second: Cbor| Cbor::Map(vec![(first, "c1".into()), (second, "root".into())]);
    for (what, payload) in [
        ("a number twice", twice(2.into(), 2.into())),
        ("number and name", twice(2.into(), "sub".into())),
        ("a name twice", twice("x".into(), "x".into())),
        ("inside", text("acl", twice("pub".into(), "pub".into()))),
        ("inside, by two keys", text("acl", twice(1.into(), "1".into()))),
        (
            "a tagged time",
            map(&[(4, Cbor::Tag(1, Box::new(2_000_000_000_u64.into())))]),
        ),
        ("no number", map(&[(4, f64::NAN.into())])),
        (
            "a big number",
            map(&[(4, Cbor::Tag(2, Box::new(Cbor::Bytes(vec![1; 9]))))]),
        ),
        (
            "a label of another kind",
            Cbor::Map(vec![(Cbor::Bool(true), 1.into())]),
        ),
        ("too deep", text("a", deep)),
        ("a list", Cbor::Array(vec![])),
    ] {
        assert!(verify(&secret(), &mac_of(&bytes(&payload))).is_err(), "{what}");
    }
    for (what, payload) in [
        (
            "lengths that nothing has",
            &b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff"[..],
        ),
        (
            "a text that nothing has",
            b"\xa1\x02\x7b\xff\xff\xff\xff\xff\xff\xff\xff",
        ),
        (
            "bytes that nothing has",
            b"\xa1\x07\x5b\x00\x00\xff\xff\xff\xff\xff\xff",
        ),
        ("an endless map", b"\xbf\x02\x62c1"),
        ("more behind it", b"\xa0\x00"),
    ] {
        assert!(verify(&secret(), &mac_of(payload)).is_err(), "{what}");
    }
    // What is written without a length says the same.
    let open = b"\xbf\x02\x7f\x61c\x611\xff\xff";
    assert_eq!(verify(&secret(), &mac_of(open)).unwrap()["sub"], "c1");
}

#[test]
fn claims_are_those_of_a_json_web_token() {
    let payload = Cbor::Map(vec![
        (2.into(), "c1".into()),
        (4.into(), 1.5.into()),
        ((-70_000).into(), true.into()),
        (
            "acl".into(),
            Cbor::Map(vec![("pub".into(), Cbor::Array(vec!["a/#".into()]))]),
        ),
    ]);
    let claims = verify(&secret(), &mac_of(&bytes(&payload))).unwrap();
    assert_eq!(
        Value::from(claims),
        json!({"sub": "c1", "exp": 1.5, "-70000": true, "acl": {"pub": ["a/#"]}})
    );
}
