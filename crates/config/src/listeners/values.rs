//! The kinds of value that only listeners have.

use std::path::PathBuf;

use toml::de::DeValue;

use portcullis_dtls::CertField;
use portcullis_proto::gateway::settings::{NotifyType, OnClose};
use portcullis_proto::policy::attributes::Attributes;
use portcullis_proto::policy::authentication::IdentityRole;

use crate::paths::PathBase;
use crate::value::{Complaint, Value, expected, items, optional, word, words};

/// The files of one more certificate of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate chain, PEM, the server's own first.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The password of the private key, if it has one.
    pub key_password_file: Option<PathBuf>,
}

/// Most certificates beside that of `cert_file`: each name makes a context of its own.
const MAX_CERTIFICATES: usize = 64;

impl Value for Vec<CertificateFiles> {
    const KIND: &'static str = "list of tables";

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a list of tables such as [{ cert_file = \"rsa.pem\", key_file = \"rsa.key\" }]";
        let array = value.as_array().ok_or_else(|| expected(what, value))?;
        if array.len() > MAX_CERTIFICATES {
            let message = format!("at most {MAX_CERTIFICATES} certificates, found {}", array.len());
            return Err(vec![message.into()]);
        }
        items(array, |item| CertificateFiles::read(item, base))
    }
}

impl CertificateFiles {
    const KEYS: [&str; 3] = ["cert_file", "key_file", "key_password_file"];

    fn read(value: &DeValue<'_>, base: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "a table with `cert_file`, `key_file` and, if that is encrypted, `key_password_file`";
        let table = value.as_table().ok_or_else(|| expected(what, value))?;
        let unknown = table
            .keys()
            .find(|name| !Self::KEYS.contains(&name.get_ref().as_ref()));
        if let Some(name) = unknown {
            let span = Some(name.span());
            let message = format!("unknown key `{}`; expected {what}", name.get_ref());
            return Err(vec![Complaint { span, message }]);
        }
        let path = |name: &str| {
            let Some(value) = table.get(name) else {
                return Ok(None);
            };
            Option::<PathBuf>::read(value.get_ref(), base)
        };
        let needed = |name: &str| path(name)?.ok_or_else(|| vec![format!("it lacks `{name}`").into()]);
        Ok(Self {
            cert_file: needed("cert_file")?,
            key_file: needed("key_file")?,
            key_password_file: path("key_password_file")?,
        })
    }
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// They are not asked.
    None,
    /// They are asked, and what they show must be valid.
    Optional,
    /// They must show a valid one, unless they use a pre-shared key.
    Required,
}

words!(Verify {
    "none" => Verify::None,
    "optional" => Verify::Optional,
    "required" => Verify::Required,
});

/// Which name of a client certificate is its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertIdentity {
    /// The common name of the subject.
    Cn,
    /// The first DNS name among the alternative names.
    SanDns,
    /// The first URI among the alternative names.
    SanUri,
}

impl CertIdentity {
    /// What stands for it in the text of a name.
    #[must_use]
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Cn => "${cert.cn}",
            Self::SanDns => "${cert.san_dns}",
            Self::SanUri => "${cert.san_uri}",
        }
    }
}

words!(CertIdentity {
    "cn" => CertIdentity::Cn,
    "san_dns" => CertIdentity::SanDns,
    "san_uri" => CertIdentity::SanUri,
});

/// Attributes by their names, and what of a certificate they are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CertAttributes(pub Vec<(String, CertField)>);

const CERT_FIELDS: [(&str, CertField); 9] = [
    ("cn", CertField::Cn),
    ("o", CertField::O),
    ("ou", CertField::Ou),
    ("c", CertField::C),
    ("st", CertField::St),
    ("l", CertField::L),
    ("serial_number", CertField::SerialNumber),
    ("san_dns", CertField::SanDns),
    ("san_uri", CertField::SanUri),
];

impl Value for CertAttributes {
    const KIND: &'static str = "table of `cn` `o` `ou` `c` `st` `l` `serial_number` `san_dns` `san_uri`";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let table = value
            .as_table()
            .ok_or_else(|| expected("a table such as { site = \"ou\" }", value))?;
        let mut all = Vec::new();
        for (name, field) in table {
            let name = name.get_ref().as_ref();
            Attributes::new([(name, "")]).map_err(|message| vec![message.into()])?;
            all.push((name.to_owned(), word(field.get_ref(), &CERT_FIELDS)?));
        }
        Ok(Self(all))
    }
}

words!(IdentityRole {
    "none" => IdentityRole::None,
    "clientid" => IdentityRole::ClientId,
    "username" => IdentityRole::Username,
});

optional!(NotifyType);

words!(OnClose {
    "detach" => OnClose::Detach,
    "end" => OnClose::End,
});

/// Bytes of a datagram that asks whether a listener serves, or of the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HealthBytes(pub(super) Vec<u8>);

impl HealthBytes {
    /// Most bytes of either.
    const MAX: usize = 64;
}

impl Value for HealthBytes {
    const KIND: &'static str = "text";

    fn read(value: &DeValue<'_>, _: &PathBase) -> Result<Self, Vec<Complaint>> {
        let what = "1 to 64 bytes as text, or `hex:` and two digits for each, or \"\"";
        let text = value.as_str().ok_or_else(|| expected(what, value))?;
        let bytes = match text.strip_prefix("hex:") {
            Some(digits) => hex::decode(digits).map_err(|_| expected(what, value))?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.len() > Self::MAX {
            return Err(expected(what, value));
        }
        Ok(Self(bytes))
    }
}
