//! What operators ask: new settings, goodbye.

use std::sync::Arc;
use std::time::Instant;

use super::Gateway;
use super::contract::{ControlAnswer, ControlRequest, Output};
use super::settings::Settings;
use super::timers::Timer;
use crate::coap::contract::{RequestError, RequestId, Response};
use crate::dtls::DtlsContext;
use crate::dtls::contract::CloseReason;
use crate::policy::rate::Rate;
use crate::types::ListenerId;

impl Gateway {
    pub(super) fn control(&mut self, now: Instant, ticket: u64, request: ControlRequest) {
        let answer = match request {
            ControlRequest::Reconfigure { settings, contexts } => {
                self.reconfigure(now, settings, &contexts);
                ControlAnswer::Done
            }
            ControlRequest::Drain => {
                for dtls in self.dtls.iter_mut().flatten() {
                    dtls.close_all(now, CloseReason::Shutdown, &mut self.transmits);
                }
                ControlAnswer::Done
            }
        };
        self.outputs.push_back(Output::Control { ticket, answer });
    }

    fn reconfigure(&mut self, now: Instant, settings: Arc<Settings>, contexts: &[Option<Arc<DtlsContext>>]) {
        let heartbeat_changed = settings.heartbeat != self.settings.heartbeat;
        self.settings = settings;
        self.failures
            .set_rate(Rate::per_minute(self.settings.failed_logins_per_minute));
        self.request_rates
            .set_rate(Rate::per_second(self.settings.requests_per_second));
        self.coap.reconfigure(self.settings.coap.clone());
        for (index, context) in contexts.iter().enumerate() {
            let settings = self
                .settings
                .listeners
                .get(index)
                .and_then(|listener| listener.dtls.as_ref());
            let dtls = self.dtls.get_mut(index).and_then(Option::as_mut);
            if let (Some(dtls), Some(settings), Some(context)) = (dtls, settings, context) {
                let transport = settings.transport.clone();
                dtls.reconfigure(now, Arc::clone(context), transport, &mut self.transmits);
            }
            if let Ok(index) = u16::try_from(index) {
                self.dtls_events(now, ListenerId(index), &[]);
            }
        }
        if heartbeat_changed {
            for connection in self.connections.iter() {
                if let Some(deadline) = connection.deadline(self.settings.heartbeat) {
                    self.timers.arm(deadline, Timer::Connection(connection.key));
                }
            }
        }
    }

    pub(super) fn device_answered(&mut self, _request: RequestId, _result: Result<Response, RequestError>) {}
}
