//! What comes in streams, and what goes out by them.

use std::time::Instant;

use crate::daemon::worker::core::Core;
use crate::gateway::contract::Input;
use crate::session::StreamEvent;
use crate::stream::{FromStream, Told};

use super::Worker;

impl<C: Core> Worker<C> {
    pub(super) fn run_streams(&mut self, now: Instant) {
        let mut streams = std::mem::take(&mut self.ready.streams);
        for FromStream { listener, from, told } in streams.drain(..) {
            match told {
                Told::Opened(handle, event) => {
                    self.streams.insert((listener, from), handle);
                    self.core.handle(
                        now,
                        Input::Stream {
                            listener,
                            from,
                            event,
                        },
                    );
                }
                Told::Message(mut bytes) => self.core.handle(
                    now,
                    Input::Datagram {
                        listener,
                        from: from.socket_addr(),
                        local: from.local(),
                        bytes: &mut bytes,
                    },
                ),
                Told::Event(event) => {
                    if matches!(event, StreamEvent::Ended(_)) {
                        self.streams.remove(&(listener, from));
                    }
                    self.core.handle(
                        now,
                        Input::Stream {
                            listener,
                            from,
                            event,
                        },
                    );
                }
            }
        }
        self.ready.streams = streams;
    }

    /// Hands what is for streams to their connections. What has none any more is dropped.
    pub(super) fn send_in_streams(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        for (listener, to, bytes) in self.core.transmits().iter() {
            let place = (listener, to);
            if bytes.is_empty() {
                self.streams.remove(&place);
            } else if let Some(stream) = self.streams.get(&place) {
                stream.send(bytes);
            }
        }
    }
}
