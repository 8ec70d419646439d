//! What is answered when a request cannot be done.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa::openapi::{ContentBuilder, PathItem, Ref, RefOr, ResponseBuilder};

use portcullis_config::{Problem, Problems, Severity};

/// Why a request was not done.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    body: ErrorBody,
}

/// Why a request was not done.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Error)]
pub struct ErrorBody {
    /// A word for programs, such as `bad_request` or `not_found`.
    #[schema(example = "not_found")]
    pub code: String,
    /// A sentence for people.
    pub message: String,
    /// What is wrong with a configuration, each with its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<ProblemView>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemView {
    /// The path of the file that is wrong.
    pub file: String,
    /// Line from 1, where the file says anything about it.
    pub line: Option<usize>,
    /// Column in characters from 1.
    pub column: Option<usize>,
    /// How many characters are meant.
    pub width: Option<usize>,
    /// The dotted key; empty for what is no key.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// `error`; `outdated` for what ran out and does not forbid a start; `note` for what works, but not as it seems.
    pub severity: String,
}

impl ProblemView {
    fn of(problem: &Problem) -> Self {
        let place = problem.place.as_ref();
        Self {
            file: problem.file.display().to_string(),
            line: place.map(|place| place.line),
            column: place.map(|place| place.column),
            width: place.map(|place| place.width),
            key: problem.key.clone(),
            message: problem.message.clone(),
            severity: match problem.severity {
                Severity::Error => "error",
                Severity::Outdated => "outdated",
                Severity::Note => "note",
            }
            .to_owned(),
        }
    }

    pub(super) fn all(problems: &Problems) -> Vec<Self> {
        problems.iter().map(Self::of).collect()
    }
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> Self {
        Self {
            status,
            body: ErrorBody {
                code: code.to_owned(),
                message: message.into(),
                problems: Vec::new(),
            },
        }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn unauthorized() -> Self {
        let message = "a bearer token is needed: Authorization: Bearer TOKEN";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    pub(super) fn conflict(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, message)
    }

    pub(super) fn bad_gateway(code: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, code, message)
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// What the operating system refused to do.
    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(super) fn worker_gone() -> Self {
        Self::bad_gateway("worker_gone", "a worker has ended")
    }

    pub(super) const fn body(&self) -> &ErrorBody {
        &self.body
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) fn code(&self) -> &str {
        &self.body.code
    }

    pub(super) fn message(&self) -> &str {
        &self.body.message
    }

    pub(super) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    pub(super) fn with(mut self, problems: &Problems) -> Self {
        self.body.problems = problems.reasons().into_iter().map(ProblemView::of).collect();
        self
    }
}

/// Completes what the document says of a path: a name for each operation that no other has, the answers that every request may
/// get, whatever it is about, and words for each answer, without which OpenAPI takes none.
pub(super) fn complete(route: &str, path: &mut PathItem) {
    let segments = route.trim_start_matches("/api/v1").split('/');
    let words: Vec<&str> = segments.map(|segment| segment.trim_matches(['{', '}'])).collect();
    let name = words.join("_").replace('.', "_");
    let operations = [
        ("get", &mut path.get),
        ("put", &mut path.put),
        ("post", &mut path.post),
        ("delete", &mut path.delete),
    ];
    for (method, operation) in operations {
        let Some(operation) = operation else { continue };
        operation.operation_id = Some(format!("{method}{name}"));
        let mut common = vec![
            ("401", "There is no valid token"),
            ("403", "The token is for reading only"),
        ];
        if operation.request_body.is_some() || operation.parameters.is_some() {
            common.push(("400", "The request is wrong"));
        }
        if operation.request_body.is_some() {
            common.push(("408", "The body took too long to arrive"));
            common.push(("413", "The body is too large"));
        }
        let responses = &mut operation.responses.responses;
        for (status, why) in common {
            let body = ContentBuilder::new()
                .schema(Some(Ref::from_schema_name("Error")))
                .build();
            let response = ResponseBuilder::new()
                .description(why)
                .content("application/json", body);
            responses
                .entry(status.to_owned())
                .or_insert_with(|| RefOr::T(response.build()));
        }
        for (status, response) in responses {
            if let RefOr::T(response) = response
                && response.description.is_empty()
            {
                description(status).clone_into(&mut response.description);
            }
        }
    }
}

fn description(status: &str) -> &'static str {
    match status {
        "200" => "Here it is",
        "201" => "It was made",
        "202" => "It is on its way",
        "204" => "It was done",
        "400" => "The request is wrong",
        "404" => "It is not there",
        "409" => "It cannot be done now",
        _ => "It failed",
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let unauthorized = self.status == StatusCode::UNAUTHORIZED;
        let mut response = (self.status, Json(self.body)).into_response();
        if unauthorized {
            let scheme = header::HeaderValue::from_static("Bearer realm=\"portcullis\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
