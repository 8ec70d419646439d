//! Passes on which OpenSSL headers the binary is compiled against, which only a build script is told.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(openssl_rpk)");
    let number = std::env::var("DEP_OPENSSL_VERSION_NUMBER").ok();
    let number = number
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        .unwrap_or_default();
    // OPENSSL_VERSION_NUMBER is 0xMNN00PP0 since OpenSSL 3.0.
    let (major, minor, patch) = (number >> 28, number >> 20 & 0xff, number >> 4 & 0xff);
    // Raw public keys (RFC 7250) came with OpenSSL 3.2; the tests of them are for that.
    if number >= 0x3020_0000 {
        println!("cargo::rustc-cfg=openssl_rpk");
    }
    println!("cargo::rustc-env=PORTCULLIS_OPENSSL_BUILD={major}.{minor}.{patch}");
}
