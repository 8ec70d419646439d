//! An HTTP server as a backend.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri};
use zeroize::Zeroizing;

use portcullis_proto::policy::authentication::{AuthRequest, DenyReason, Verdict};

use super::answer;
use super::client::{Client, Origin, Trust};
use super::settings::{HttpMethod, HttpSettings, WallClock};
use super::template::{NotText, Template, Values, percent, plain};
use super::users::{FileError, read_text};
use portcullis_proto::types::LineError;

/// Largest answer in bytes.
pub(super) const MAX_ANSWER: usize = 256 << 10;
/// Connections that are kept open between requests.
const KEPT: usize = 8;

const FORM: &str = "application/x-www-form-urlencoded";

/// How a server is asked.
pub(super) struct HttpBackend {
    client: Client,
    timeout: Duration,
    grace: Duration,
    method: HttpMethod,
    path: Template,
    headers: Vec<(HeaderName, Template)>,
    body: Vec<(String, Template)>,
    token: Option<HeaderValue>,
    is_form: bool,
}

impl fmt::Debug for HttpBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HttpBackend({:?})", self.client)
    }
}

impl HttpBackend {
    /// Checks the settings and reads the files they name.
    pub(super) fn open(settings: &HttpSettings) -> Result<Self, Vec<FileError>> {
        let mut errors = Vec::new();
        let token = settings.token_file.as_deref().map(bearer).transpose();
        let token = token.map_err(|error| errors.push(error)).ok().flatten();
        let mut checked = |key: &str, template: Result<Template, String>| {
            template
                .map_err(|error| errors.push(FileError::whole(key.as_ref(), error)))
                .ok()
        };
        let mut body = Vec::new();
        for (name, text) in &settings.body {
            body.extend(
                checked(&format!("body.{name}"), Template::new(text)).map(|value| (name.clone(), value)),
            );
        }
        let mut headers = Vec::new();
        for (name, text) in &settings.headers {
            let parsed =
                HeaderName::from_bytes(name.as_bytes()).map_err(|_| "this is no name of a header".to_owned());
            let value = parsed.clone().and_then(|_| Template::new(text));
            headers.extend(parsed.ok().zip(checked(&format!("headers.{name}"), value)));
        }
        let kind = settings
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(CONTENT_TYPE.as_str()));
        let is_form = kind.is_some_and(|(_, value)| value.trim().starts_with(FORM));
        let origin = Origin::of(&settings.url);
        let path = checked("url", origin.clone().and_then(|(_, path)| Template::new(&path)));
        let (Ok((origin, _)), Some(path)) = (origin, path) else {
            return Err(errors);
        };
        match Client::new(origin, &Trust::Anchors(settings.tls.clone()), KEPT) {
            Ok(client) if errors.is_empty() => Ok(Self {
                client,
                timeout: settings.timeout,
                grace: settings.grace,
                method: settings.method,
                path,
                headers,
                body,
                token,
                is_form,
            }),
            Ok(_) => Err(errors),
            Err(error) => {
                errors.push(error);
                Err(errors)
            }
        }
    }

    pub(super) const fn grace(&self) -> Duration {
        self.grace
    }

    /// Asks the server. `Err` when it did not say anything that counts.
    pub(super) async fn ask(
        &self,
        asked: &AuthRequest,
        listener: &str,
        clock: WallClock,
    ) -> Result<Verdict, String> {
        match self.answer(&Values::new(asked, listener)).await? {
            Some((status, body)) => answer::verdict(status, &body, clock()),
            None => Ok(Verdict::Deny(DenyReason::BadCredentials)),
        }
    }

    /// What the server answers, with its status. Nothing where the question cannot be put into a request: it cannot be about
    /// what the server knows.
    pub(super) async fn answer(&self, values: &Values<'_>) -> Result<Option<(u16, Bytes)>, String> {
        let Ok(request) = self.request(values) else {
            return Ok(None);
        };
        let asked = self.client.ask(request, self.timeout, MAX_ANSWER).await;
        let (status, body) = asked.map_err(|error| error.to_string())?;
        Ok(Some((status.as_u16(), body)))
    }

    fn request(&self, values: &Values<'_>) -> Result<Request<Full<Bytes>>, NotText> {
        let mut path = self.path.render(values, percent)?;
        let (method, body) = match self.method {
            HttpMethod::Get => {
                path = with_query(&path, &self.form(values)?);
                (Method::GET, None)
            }
            HttpMethod::Post if self.is_form => {
                let form = std::mem::take(&mut *self.form(values)?).into_bytes();
                (Method::POST, Some((Zeroizing::new(form), FORM)))
            }
            HttpMethod::Post => (Method::POST, Some((self.json(values)?, "application/json"))),
        };
        let mut request = Request::builder().method(method).uri(uri(path)?);
        if let Some(headers) = request.headers_mut() {
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            if let Some((_, kind)) = &body {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            }
            headers.extend(self.token.clone().map(|token| (AUTHORIZATION, token)));
            // A GET has no body whose type could be told.
            let told = self
                .headers
                .iter()
                .filter(|(name, _)| body.is_some() || *name != CONTENT_TYPE);
            for (name, template) in told {
                let mut value =
                    HeaderValue::from_str(&template.render(values, plain)?).map_err(|_| NotText)?;
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        // Wiped when the last that holds it lets go.
        let bytes = body.map_or_else(Bytes::new, |(text, _)| Bytes::from_owner(text));
        request.body(Full::new(bytes)).map_err(|_| NotText)
    }

    fn json(&self, values: &Values<'_>) -> Result<Zeroizing<Vec<u8>>, NotText> {
        let mut fields = Vec::with_capacity(self.body.len());
        for (name, template) in &self.body {
            fields.push((name.as_str(), template.render_or_none(values)?));
        }
        // A character takes six bytes at most. A text that grows would leave copies of passwords behind.
        let length = |text: &str| 6 * text.len() + 4;
        let room = fields
            .iter()
            .map(|(name, value)| length(name) + value.as_ref().map_or(4, |value| length(value)));
        let mut text = Zeroizing::new(Vec::with_capacity(2 + room.sum::<usize>()));
        text.push(b'{');
        for (at, (name, value)) in fields.iter().enumerate() {
            if at > 0 {
                text.push(b',');
            }
            serde_json::to_writer(&mut *text, name).map_err(|_| NotText)?;
            text.push(b':');
            let value = value.as_ref().map(|value| value.as_str());
            serde_json::to_writer(&mut *text, &value).map_err(|_| NotText)?;
        }
        text.push(b'}');
        Ok(text)
    }

    fn form(&self, values: &Values<'_>) -> Result<Zeroizing<String>, NotText> {
        let mut fields = Vec::with_capacity(self.body.len());
        for (name, template) in &self.body {
            fields.push((name.as_str(), template.render(values, plain)?));
        }
        // A byte takes three at most. A text that grows would leave copies of passwords behind.
        let room = fields
            .iter()
            .map(|(name, value)| 3 * (name.len() + value.len()) + 2);
        let mut text = Zeroizing::new(String::with_capacity(room.sum()));
        for (name, value) in &fields {
            if !text.is_empty() {
                text.push('&');
            }
            percent(name, &mut text);
            text.push('=');
            percent(value, &mut text);
        }
        Ok(text)
    }
}

/// A path with more of a query.
fn with_query(path: &str, query: &str) -> Zeroizing<String> {
    let mut whole = Zeroizing::new(String::with_capacity(path.len() + 1 + query.len()));
    whole.push_str(path);
    if !query.is_empty() {
        whole.push(if path.contains('?') { '&' } else { '?' });
        whole.push_str(query);
    }
    whole
}

/// A path and query, which may hold a password, as a URI on the same bytes: they are wiped when the last that holds them
/// lets go. What the connection writes them into is not in our hands; a POST keeps passwords out of access logs too.
fn uri(mut path: Zeroizing<String>) -> Result<Uri, NotText> {
    let bytes = Zeroizing::new(std::mem::take(&mut *path).into_bytes());
    Uri::from_maybe_shared(Bytes::from_owner(bytes)).map_err(|_| NotText)
}

fn bearer(file: &Path) -> Result<HeaderValue, FileError> {
    let text = read_text(file, 64 << 10)?;
    let token = text.lines().next().unwrap_or_default().trim();
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .ok()
        .filter(|_| !token.is_empty())
        .ok_or_else(|| FileError::at(file, LineError::at(1, token, token, "this is no token")))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_of_a_login_stays_on_bytes_that_are_wiped() {
        let path = with_query("/auth?a=b", "password=secret");
        let place = path.as_ptr();
        let uri = uri(path).unwrap();
        assert_eq!(uri.to_string(), "/auth?a=b&password=secret");
        assert_eq!(uri.path().as_ptr(), place, "a copy would not be wiped");
        assert_eq!(with_query("/auth", "p=x").as_str(), "/auth?p=x");
        assert_eq!(with_query("/auth", "").as_str(), "/auth");
    }
}
