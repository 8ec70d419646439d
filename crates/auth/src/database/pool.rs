//! The connections to one server: as many as there are questions at the same time.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::template::Values;
use super::{Failure, Find, Finding, Found};

/// How a server is spoken to.
pub(super) trait Server: Send + Sync {
    /// A connection, ready to ask.
    type Connection: Send;

    /// Makes one.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection, Failure>> + Send;

    /// Asks over one; it is not used again after [`Failure::Broken`], nor when nobody waited for the answer.
    fn ask(
        &self,
        connection: &mut Self::Connection,
        values: &Values<'_>,
    ) -> impl Future<Output = Result<Found, Failure>> + Send;
}

/// A server and its connections.
pub(super) struct Pool<S: Server> {
    server: S,
    idle: Mutex<Vec<S::Connection>>,
}

impl<S: Server> Pool<S> {
    /// Connections are made when they are needed.
    pub(super) fn new(server: S) -> Self {
        Self {
            server,
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<S::Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(&self, values: &Values<'_>) -> Result<Found, Failure> {
        let kept = self.idle().pop();
        if let Some(mut connection) = kept {
            match self.server.ask(&mut connection, values).await {
                // It may have been closed while nobody used it, and so may the others.
                Err(Failure::Broken(_)) => self.idle().clear(),
                answer => {
                    self.idle().push(connection);
                    return answer;
                }
            }
        }
        let mut connection = self.server.connect().await?;
        let answer = self.server.ask(&mut connection, values).await;
        if !matches!(answer, Err(Failure::Broken(_))) {
            self.idle().push(connection);
        }
        answer
    }
}

impl<S: Server> Find for Pool<S> {
    fn find<'a>(&'a self, values: &'a Values<'a>) -> Finding<'a> {
        Box::pin(self.ask(values))
    }
}
