//! Tells the crate what the OpenSSL that it is built against can do, which only a build script is told.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(openssl_rpk)");
    let number = std::env::var("DEP_OPENSSL_VERSION_NUMBER").ok();
    let number = number.and_then(|hex| u64::from_str_radix(&hex, 16).ok());
    // Raw public keys (RFC 7250) came with OpenSSL 3.2.
    if number.is_some_and(|number| number >= 0x3020_0000) {
        println!("cargo::rustc-cfg=openssl_rpk");
    }
}
