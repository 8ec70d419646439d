//! Sessions and connections that change nodes: what one left that is gone goes on here, what another took over is let go.

use std::collections::HashSet;
use std::time::Instant;

use super::contract::ControlAnswer;
use super::kept::CONNECTION;
use super::metrics::ConnectionEvent;
use super::nodes::Taken;
use super::restore::Origin;
use super::{Gateway, cx};
use crate::policy::connections::ConnectionKey;
use crate::state::{MARK, Record};

impl Gateway {
    /// Goes on with what a node left that is gone. Nothing of it is acted on before its device has shown that it lives.
    pub(super) fn take_over(&mut self, now: Instant, taken: &Taken) -> ControlAnswer {
        let Some(store) = self.store.clone() else {
            return ControlAnswer::Unavailable;
        };
        let place = taken.led_by.as_ref();
        let place = place.map(|(mark, from, _)| (self.listener_by(|it| it == *mark), *from));
        if let Some((listener, from)) = place
            && listener.is_none_or(|listener| self.shuts_out(now, listener, from).is_some())
        {
            return ControlAnswer::Unavailable;
        }
        // All or as much as there is room for; what the others belong to comes first.
        let adopted = taken.rows.iter().take_while(|row| store.adopt(row)).count();
        if adopted > 0 {
            self.restore(now, Origin::Node);
        }
        if let (Some((_, from, record)), Some((Some(listener), _))) = (&taken.led_by, place) {
            self.join_found(now);
            let mut record = record.clone();
            let dtls = self.dtls.get_mut(usize::from(listener.0));
            if let Some(dtls) = dtls.and_then(Option::as_mut) {
                dtls.handle_records_of_node(now, *from, &mut record, &mut self.transmits);
            }
            self.dtls_events(now, listener, &record);
        }
        let is_here = |mark: &u64| self.found.peer(*mark).is_some();
        match taken.rows.first().map(|row| (row.kind, row.hot.get(MARK))) {
            Some((kind, _)) if kind == CONNECTION => ControlAnswer::Done,
            Some((_, mark)) if !mark.is_some_and(is_here) => ControlAnswer::Unavailable,
            _ => ControlAnswer::Done,
        }
    }

    /// Lets go of the sessions and connections with these marks, which another node took over: their devices hear nothing of it.
    pub(super) fn let_go(&mut self, now: Instant, marks: &HashSet<u64>) {
        for dtls in self.dtls.iter_mut().flatten() {
            dtls.let_go(marks);
        }
        self.all_dtls_events(now);
        let is_gone = |record: Option<Record>| record.is_some_and(|it| marks.contains(&it.get(MARK)));
        let gone = self.connections.after(None).filter(|it| is_gone(it.kept));
        let gone: Vec<ConnectionKey> = gone.map(|connection| connection.key).collect();
        for key in gone {
            let (connections, observations) = (&mut self.connections, &mut self.observations);
            connections.end(&mut cx!(self, now), observations, key, ConnectionEvent::TakenOver);
        }
    }
}
