//! Authenticators.

use base64ct::{Base64, Encoding as _};
use toml_edit::{Array, InlineTable};
use zeroize::Zeroizing;

use super::hocon::{Node, Object, Value};
use super::material::{self, Homes};
use super::sheet::Kind::{Number, Text};
use super::sheet::{Carried, Sheet};
use super::{amount, nothing};

/// The file of users of all listeners.
const USERS_FILE: &str = "users.txt";

/// What the databases have in common.
const DATABASE: &[Carried] = &[("database", Text, "database"), ("username", Text, "username")];

const MONGODB: &[Carried] = &[
    ("replica_set_name", Text, "replica_set_name"),
    ("collection", Text, "collection"),
    ("auth_source", Text, "auth_source"),
];

const REDIS: &[Carried] = &[
    ("redis_type", Text, "redis_type"),
    ("sentinel", Text, "sentinel"),
    ("cmd", Text, "cmd"),
];

const LDAP: &[Carried] = &[
    ("base_dn", Text, "base_dn"),
    ("filter", Text, "filter"),
    ("publish_attribute", Text, "publish_attribute"),
    ("subscribe_attribute", Text, "subscribe_attribute"),
    ("all_attribute", Text, "all_attribute"),
];

/// Longest and shortest times that a backend may take here, in milliseconds.
const DATABASE_PATIENCE: [u64; 2] = [100, 10_000];
const HTTP_PATIENCE: [u64; 2] = [100, 60_000];

/// An authenticator on its way.
struct Move<'m> {
    sheet: &'m mut Sheet,
    homes: &'m Homes,
    /// Its key there.
    path: &'m str,
    /// Its table here.
    table: &'m [&'m str],
    /// What the names of its files begin with.
    stem: &'m str,
}

/// Moves an authenticator, or the first of a list that is switched on; false when nobody is asked there.
pub(super) fn run(
    sheet: &mut Sheet,
    homes: &Homes,
    node: Node,
    path: &str,
    table: &[&str],
    stem: &str,
) -> bool {
    let place = node.place.clone();
    let all: Vec<Object> = match node.value {
        Value::Object(one) => vec![one],
        Value::List(items) => items
            .into_iter()
            .filter_map(|item| match item.value {
                Value::Object(one) => Some(one),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let mut asked = all.into_iter().filter_map(|mut one| {
        let enabled = one.take("enable").and_then(|node| node.boolean());
        (enabled != Some(false) && !one.is_empty()).then_some(one)
    });
    let Some(first) = asked.next() else {
        return false;
    };
    if asked.next().is_some() {
        sheet.note(
            path,
            Some(&place),
            "no counterpart to a chain: the first of them is asked",
        );
    }
    let mut this = Move {
        sheet,
        homes,
        path,
        table,
        stem,
    };
    this.one(first);
    true
}

impl Move<'_> {
    fn one(&mut self, mut from: Object) {
        let word = |node: Option<Node>| {
            node.and_then(|node| node.text().map(str::to_owned))
                .unwrap_or_default()
        };
        let mechanism = word(from.take("mechanism"));
        let backend = word(from.take("backend"));
        // LDAP is a mechanism of its own in some releases.
        let kind = if backend.is_empty() {
            mechanism.as_str()
        } else {
            backend.as_str()
        };
        match kind {
            "built_in_database" if mechanism != "scram" => self.built_in(&mut from),
            "http" if mechanism != "scram" => self.http(&mut from),
            "jwt" => self.jwt(&mut from),
            "mysql" | "postgresql" => self.sql(kind, &mut from),
            "mongodb" => self.mongodb(&mut from),
            "redis" => self.redis(&mut from),
            "ldap" => self.ldap(&mut from),
            _ => self.closed(&format!(
                "mechanism = \"{mechanism}\", backend = \"{backend}\" has no counterpart"
            )),
        }
        nothing::tell(self.sheet, &from, self.path);
    }

    fn note(&mut self, key: &str, node: Option<&Node>, words: impl Into<String>) {
        let key = if key.is_empty() {
            self.path.to_owned()
        } else {
            format!("{}.{key}", self.path)
        };
        self.sheet.note(&key, node.map(|node| &node.place), words);
    }

    fn set(&mut self, table: &str, key: &str, value: impl Into<toml_edit::Value>) {
        let place = [self.table, &[table]].concat();
        self.sheet.set(&place, key, value);
    }

    fn backend(&mut self, name: &str) {
        self.sheet.set(self.table, "backend", name);
    }

    /// Users of a file that nobody stands in yet: what asked who comes there must not let everybody in here.
    fn closed(&mut self, why: &str) {
        self.users();
        self.note(
            "",
            None,
            format!("{why}: nobody is let in until authentication.backend is one that knows them"),
        );
    }

    fn users(&mut self) {
        self.backend("file");
        self.sheet.set_file(self.table, "file", USERS_FILE);
        self.sheet
            .secret(USERS_FILE, Zeroizing::new(b"# user:hash\n".to_vec()));
    }

    fn built_in(&mut self, from: &mut Object) {
        self.users();
        let mut hash = from.take_object("password_hash_algorithm");
        let name = hash.take("name");
        let name = name.as_ref().and_then(Node::text).unwrap_or("sha256");
        let position = hash.take("salt_position");
        let position = position.as_ref().and_then(Node::text).unwrap_or("prefix");
        let iterations = hash.take("iterations");
        let mac = hash.take("mac_fun");
        let mac = mac.as_ref().and_then(Node::text).unwrap_or("sha256");
        let how = match name {
            "bcrypt" | "plain" => String::new(),
            "pbkdf2" => {
                let iterations = iterations.as_ref().and_then(Node::text).unwrap_or("4096");
                format!(" --algorithm pbkdf2-{mac} --iterations {iterations}")
            }
            _ => format!(" --algorithm {name} --salt-position {position}"),
        };
        if matches!(name, "md5" | "sha") {
            self.sheet.set(self.table, "legacy_hashes", true);
        }
        let file = from.take("bootstrap_file");
        drop(from.take("bootstrap_type"));
        let shown = file.as_ref().and_then(Node::text).unwrap_or("FILE").to_owned();
        let words = format!(
            "its users are not in this file: export them, and `portcullis user import {shown}{how} --users-file {USERS_FILE}`; until \
             then nobody comes in"
        );
        self.note("", file.as_ref(), words);
        nothing::tell(
            self.sheet,
            &hash,
            &format!("{}.password_hash_algorithm", self.path),
        );
    }

    /// A text in `{}` with its placeholders, or nothing where it has some that are not known here.
    fn known_text(&mut self, key: &str, node: &Node) -> Option<String> {
        const KNOWN: [&str; 6] = [
            "clientid", "username", "password", "peerhost", "identity", "listener",
        ];
        let text = node.text()?;
        let names = text
            .split("${")
            .skip(1)
            .map(|part| part.split('}').next().unwrap_or_default());
        let unknown: Vec<&str> = names.filter(|name| !KNOWN.contains(name)).collect();
        if unknown.is_empty() {
            return Some(text.to_owned());
        }
        let words = format!("left out: ${{{}}} is not known here", unknown.join("}, ${"));
        self.note(key, Some(node), words);
        None
    }

    /// A time within what is allowed here.
    fn patience(&mut self, from: &mut Object, keys: [&str; 2], table: &str, [least, most]: [u64; 2]) {
        let [there, here] = keys;
        let Some(node) = from.take(there) else { return };
        let Some(time) = node.text().and_then(amount::duration) else {
            return self.note(there, Some(&node), "not carried over: expected a duration");
        };
        let millis = u64::try_from(time.as_millis())
            .unwrap_or(u64::MAX)
            .clamp(least, most);
        let kept = std::time::Duration::from_millis(millis);
        let shown = crate::config::quantity::show_duration(kept);
        if kept != time {
            self.note(
                there,
                Some(&node),
                format!("here at least {least} ms and at most {most} ms: {shown}"),
            );
        }
        self.set(table, here, shown);
    }

    fn sql(&mut self, kind: &str, from: &mut Object) {
        self.database(kind, from);
        if let Some(node) = from.take("query")
            && let Some(text) = self.known_text("query", &node)
        {
            // There a placeholder may stand in quotes; here its value never stands in the text.
            let bare = ["'", "\"", "`"].iter().fold(text, |text, quote| {
                text.replace(&format!("{quote}${{"), "${")
                    .replace(&format!("}}{quote}"), "}")
            });
            self.set(kind, "query", bare);
        }
    }

    fn mongodb(&mut self, from: &mut Object) {
        self.database("mongodb", from);
        drop(from.take("mongo_type"));
        let place = [self.table, &["mongodb"]].concat();
        self.sheet.carry(from, self.path, MONGODB, &place);
        let Some(node) = from.take("filter") else { return };
        if let Some(filter) = self.texts("filter", node, |this, key, node| this.known_text(key, node)) {
            self.set("mongodb", "filter", filter);
        }
    }

    fn redis(&mut self, from: &mut Object) {
        let place = [self.table, &["redis"]].concat();
        if let Some(node) = from.take("database")
            && let Some(number) = node.text().and_then(|text| text.parse::<i64>().ok())
        {
            self.sheet.set(&place, "database", number);
        }
        self.database("redis", from);
        self.sheet.carry(from, self.path, REDIS, &place);
    }

    fn ldap(&mut self, from: &mut Object) {
        self.database("ldap", from);
        let place = [self.table, &["ldap"]].concat();
        self.sheet.carry(from, self.path, LDAP, &place);
        let mut method = from.take_object("method");
        let kind = method.take("type");
        // Without a method, releases before it had one compared hashes.
        let kind = kind.as_ref().and_then(Node::text).unwrap_or("hash");
        self.sheet.set(&place, "method", kind);
        for key in ["password_attribute", "is_superuser_attribute"] {
            let node = method.take(key).or_else(|| from.take(key));
            if let Some(text) = node.as_ref().and_then(Node::text) {
                self.sheet.set(&place, key, text);
            }
        }
        nothing::tell(self.sheet, &method, &format!("{}.method", self.path));
    }

    /// Server, account, hashes and TLS of a database.
    fn database(&mut self, kind: &str, from: &mut Object) {
        self.backend(kind);
        let place = [self.table, &[kind]].concat();
        let server = from.take("server").or_else(|| from.take("servers"));
        let server = server
            .as_ref()
            .and_then(Node::texts)
            .unwrap_or_default()
            .join(",");
        let server = if server.is_empty() {
            "127.0.0.1".to_owned()
        } else {
            server
        };
        self.sheet.set(&place, "server", server);
        self.sheet.carry(from, self.path, DATABASE, &place);
        if let Some(node) = from.take("password")
            && let Some(password) = node.text().filter(|text| !text.is_empty())
        {
            let name = format!("{}{kind}.password", self.stem);
            self.sheet
                .secret(&name, Zeroizing::new(format!("{password}\n").into_bytes()));
            self.sheet.set_file(&place, "password_file", &name);
        }
        if let Some(node) = from.take("pool_size")
            && let Some(size) = node.text().and_then(|text| text.parse::<i64>().ok())
        {
            self.sheet.set(&place, "pool_size", size.clamp(1, 64));
        }
        self.patience(from, ["query_timeout", "query_timeout"], kind, DATABASE_PATIENCE);
        self.hashes(from, &place);
        let tls = [&place[..], &["tls"]].concat();
        let stem = format!("{}{kind}", self.stem);
        let mut ssl = from.take_object("ssl");
        if ssl.take("enable").and_then(|node| node.boolean()) != Some(true) {
            return;
        }
        self.sheet.set(&tls, "enable", true);
        let pair = self.tls(&mut ssl, &stem);
        if pair.anchors {
            self.sheet.set_file(&tls, "ca_file", &format!("{stem}-ca.pem"));
        }
        if pair.own {
            self.sheet.set_file(&tls, "cert_file", &format!("{stem}.pem"));
            self.sheet.set_file(&tls, "key_file", &format!("{stem}.key"));
        }
        nothing::tell(self.sheet, &ssl, &format!("{}.ssl", self.path));
    }

    fn tls(&mut self, ssl: &mut Object, stem: &str) -> material::Pair {
        let path = format!("{}.ssl", self.path);
        let pair = material::take(self.sheet, self.homes, ssl, &path, stem);
        if let Some(node) = ssl.take("verify")
            && node.text() == Some("verify_none")
        {
            self.note(
                "ssl.verify",
                Some(&node),
                "no counterpart: a server is always verified, by ca_file or what the system trusts",
            );
        }
        pair
    }

    fn hashes(&mut self, from: &mut Object, place: &[&str]) {
        let mut hash = from.take_object("password_hash_algorithm");
        let table = [place, &["password_hash_algorithm"]].concat();
        match hash.take("name") {
            Some(node) if node.text() == Some("plain") => self.note(
                "password_hash_algorithm.name",
                Some(&node),
                "no counterpart: passwords in the clear let nobody in here; hash them",
            ),
            Some(node) => {
                let name = node.text().unwrap_or_default();
                self.sheet.set(&table, "name", name);
                if matches!(name, "md5" | "sha") {
                    self.sheet.set(self.table, "legacy_hashes", true);
                }
            }
            None => {}
        }
        let keys: &[Carried] = &[
            ("salt_position", Text, "salt_position"),
            ("mac_fun", Text, "mac_fun"),
            ("iterations", Number, "iterations"),
        ];
        let path = format!("{}.password_hash_algorithm", self.path);
        self.sheet.carry(&mut hash, &path, keys, &table);
        nothing::tell(self.sheet, &hash, &path);
    }

    /// An object of texts as a table, each as `each` says.
    fn texts(
        &mut self,
        key: &str,
        node: Node,
        each: impl Fn(&mut Self, &str, &Node) -> Option<String>,
    ) -> Option<InlineTable> {
        let Value::Object(inner) = node.value else {
            self.note(key, Some(&node), "not carried over: expected an object of texts");
            return None;
        };
        let mut table = InlineTable::new();
        for (name, node) in inner.into_entries() {
            let path = format!("{key}.{name}");
            if node.text().is_none() {
                self.note(&path, Some(&node), "left out: it is no text");
            } else if let Some(text) = each(self, &path, &node) {
                table.insert(&name, text.into());
            }
        }
        Some(table)
    }

    fn http(&mut self, from: &mut Object) {
        self.backend("http");
        let method: Option<&'static str> = match from.take("method").as_ref().and_then(Node::text) {
            Some("get") => Some("get"),
            _ => None,
        };
        if let Some(method) = method {
            self.set("http", "method", method);
        }
        let mut fields = InlineTable::new();
        if let Some(node) = from.take("url") {
            let text = node.text().unwrap_or_default();
            let (url, query) = text.split_once('?').unwrap_or((text, ""));
            if url.contains("${") {
                return self.closed("a placeholder in the url of an HTTP service has no counterpart");
            }
            self.set("http", "url", url);
            for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
                fields.insert(name, value.into());
            }
        }
        if let Some(node) = from.take("body")
            && let Some(body) = self.texts("body", node, |this, key, node| this.known_text(key, node))
        {
            for (name, value) in body {
                fields.insert(&name, value);
            }
        }
        if !fields.is_empty() {
            self.set("http", "body", fields);
        }
        if let Some(node) = from.take("headers") {
            self.headers(node);
        }
        self.patience(from, ["request_timeout", "timeout"], "http", HTTP_PATIENCE);
        let mut ssl = from.take_object("ssl");
        if ssl.take("enable").and_then(|node| node.boolean()) == Some(true) {
            let stem = format!("{}http", self.stem);
            let pair = self.tls(&mut ssl, &stem);
            if pair.anchors {
                let place = [self.table, &["http"]].concat();
                self.sheet.set_file(&place, "ca_file", &format!("{stem}-ca.pem"));
            }
            if pair.own {
                self.note(
                    "ssl.certfile",
                    None,
                    "no counterpart: the service is shown a token of token_file, no certificate",
                );
            }
            nothing::tell(self.sheet, &ssl, &format!("{}.ssl", self.path));
        }
    }

    fn headers(&mut self, node: Node) {
        let headers = self.texts("headers", node, |this, key, node| {
            let (text, name) = (node.text()?, key.rsplit('.').next()?);
            let token = match name.to_ascii_lowercase().as_str() {
                "authorization" => text.strip_prefix("Bearer "),
                "cookie" => None,
                _ => return Some(text.to_owned()),
            };
            match token {
                Some(token) => {
                    let name = format!("{}http.token", this.stem);
                    this.sheet
                        .secret(&name, Zeroizing::new(format!("{}\n", token.trim()).into_bytes()));
                    let place = [this.table, &["http"]].concat();
                    this.sheet.set_file(&place, "token_file", &name);
                }
                None => this.note(
                    key,
                    Some(node),
                    "no counterpart: the service is shown a bearer token, of token_file, and no other secret",
                ),
            }
            None
        });
        if let Some(headers) = headers.filter(|headers| !headers.is_empty()) {
            self.set("http", "headers", headers);
        }
    }

    fn jwt(&mut self, from: &mut Object) {
        self.backend("jwt");
        let place = [self.table, &["jwt"]].concat();
        let keys: &[Carried] = &[("from", Text, "from"), ("acl_claim_name", Text, "acl_claim")];
        // There it is a number of seconds.
        if let Some(node) = from.take("refresh_interval") {
            let seconds = node.text().and_then(|text| text.parse::<u64>().ok());
            let value = seconds.map_or_else(
                || node.text().unwrap_or_default().to_owned(),
                |seconds| format!("{seconds}s"),
            );
            self.set("jwt", "refresh", value);
        }
        self.sheet.carry(from, self.path, keys, &place);
        let is_set = from.take("use_jwks").and_then(|node| node.boolean()) == Some(true);
        let endpoint = from.take("endpoint");
        let name = format!("{}jwt.key", self.stem);
        let algorithm = from.take("algorithm");
        let (secret, public) = (from.take("secret"), from.take("public_key"));
        let encoded = from.take("secret_base64_encoded").and_then(|node| node.boolean()) == Some(true);
        if is_set || endpoint.is_some() {
            let url = endpoint.as_ref().and_then(Node::text).unwrap_or_default();
            self.set("jwt", "jwks_url", url);
            let mut ssl = from.take_object("ssl");
            if ssl.take("enable").and_then(|node| node.boolean()) == Some(true) {
                let stem = format!("{}jwks", self.stem);
                if self.tls(&mut ssl, &stem).anchors {
                    self.sheet.set_file(&place, "ca_file", &format!("{stem}-ca.pem"));
                }
            }
        } else if let Some(node) =
            secret.filter(|_| algorithm.as_ref().and_then(Node::text) != Some("public-key"))
        {
            let text = node.text().unwrap_or_default();
            let decoded = encoded.then(|| Base64::decode_vec(text).ok()).flatten();
            let key = Zeroizing::new(decoded.unwrap_or_else(|| text.as_bytes().to_vec()));
            if key.trim_ascii().len() < 32 || key.trim_ascii().len() != key.len() {
                return self.closed("the secret is shorter than the 32 bytes that HS256 needs (RFC 7518, 3.2), or begins or ends with white space");
            }
            self.sheet.secret(&name, key);
            self.sheet.set_file(&place, "key_file", &name);
            self.sheet.set(&place, "algorithms", Array::from_iter(["HS256"]));
        } else {
            let written = public.as_ref().and_then(Node::text).unwrap_or_default();
            match self.homes.read(written) {
                Ok(key) => {
                    self.sheet.public(&name, key.to_vec());
                    self.sheet.set_file(&place, "key_file", &name);
                }
                Err(why) => return self.closed(&format!("public_key cannot be had ({why})")),
            }
        }
        self.claims(from);
        self.note(
            "",
            None,
            "a token without `exp` is refused here, unless require_exp = false",
        );
    }

    /// Claims as an object, or as a list of objects with `name` and `value`.
    fn claims(&mut self, from: &mut Object) {
        let Some(node) = from.take("verify_claims") else {
            return;
        };
        let place = node.place.clone();
        let object = match node.value {
            Value::List(items) => {
                let mut all = Object::default();
                for item in items {
                    if let Value::Object(mut pair) = item.value
                        && let (Some(name), Some(value)) = (pair.take("name"), pair.take("value"))
                        && let Some(name) = name.text()
                    {
                        all.put(&[name.to_owned()], value);
                    }
                }
                Value::Object(all)
            }
            other => other,
        };
        let node = Node { value: object, place };
        if let Some(claims) = self.texts("verify_claims", node, |this, key, node| {
            this.known_text(key, node)
        }) {
            self.set("jwt", "required_claims", claims);
        }
    }
}
