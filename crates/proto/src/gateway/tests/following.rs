//! Requests that wait for a client that comes back somewhere else.

use super::*;
use crate::coap::contract::{Code, OutgoingRequest, RequestError};
use crate::gateway::workers::WorkerMessage;
use crate::types::ClientId;

const WAIT: Duration = Duration::from_secs(3600);

impl Site {
    /// Has an operator ask a client of a worker, with a request that may wait.
    fn ask_device(&mut self, worker: usize, client: &str, path: &str) {
        let request = ControlRequest::Request {
            client: ClientId::new(client).unwrap(),
            request: OutgoingRequest {
                method: Code::GET,
                path: vec![path.to_owned()],
                query: Vec::new(),
                content_format: None,
                payload: Vec::new().into(),
                timeout: Duration::from_secs(60),
            },
            wait: WAIT,
        };
        let input = Input::Control { ticket: 7, request };
        self.workers[worker].handle(self.now, input);
        self.settle();
    }

    /// The paths that a port is asked for, the first of them once more; each is answered.
    fn asked(&mut self, worker: usize, port: u16) -> Vec<String> {
        self.pass(Duration::from_secs(4));
        let mut paths = Vec::new();
        loop {
            let sent = self.sent(worker, port);
            let asked = sent
                .iter()
                .find(|it| matches!(it.header.code, MessageClass::Request(_)));
            let Some(asked) = asked else { return paths };
            paths.push(
                String::from_utf8(
                    asked
                        .get_option(CoapOption::UriPath)
                        .unwrap()
                        .front()
                        .unwrap()
                        .clone(),
                )
                .unwrap(),
            );
            let mut answer = acknowledgement(asked);
            answer.header.code = MessageClass::Response(ResponseType::Content);
            answer.set_token(asked.get_token().to_vec());
            let mut bytes = answer.to_bytes().unwrap();
            let input = Input::Datagram {
                listener: ListenerId(0),
                from: ([127, 0, 0, 1], port).into(),
                local: None,
                bytes: &mut bytes,
            };
            self.workers[worker].handle(self.now, input);
            self.settle();
        }
    }

    /// A client without a connection says who it is.
    fn says_who(&mut self, worker: usize, port: u16, client: &str) {
        let publish = self.request(RequestType::Post, "ps/x", &[&format!("clientid={client}")]);
        let answers = self.ask(worker, port, &publish);
        assert_eq!(code(&answers[0]), ResponseType::Changed);
    }

    fn waiting(&self) -> u64 {
        self.metrics
            .iter()
            .map(|metrics| metrics.queued_requests.get())
            .sum()
    }

    fn delivered(&mut self) -> usize {
        let answers = std::mem::take(&mut self.answers);
        let is_answer = |answer: &ControlAnswer| matches!(answer, ControlAnswer::Answered(Ok(_)));
        assert!(answers.iter().all(is_answer), "{answers:?}");
        answers.len()
    }
}

fn connectionless(workers: u8) -> Site {
    let mut settings = settings(workers);
    settings.connection_required = false;
    Site::with(settings)
}

#[test]
fn requests_follow_a_client_whose_connection_ended_and_that_came_back_at_another_worker() {
    let mut site = Site::new(4);
    site.create(1, 1000, "meter");
    for path in ["a", "b"] {
        site.ask_device(1, "meter", path);
    }
    site.pass(Duration::from_secs(600));
    site.sent(1, 1000);
    assert_eq!(site.events(ConnectionEvent::Expired), 1);
    assert_eq!(site.waiting(), 2);
    site.create(3, 3000, "meter");
    assert_eq!(site.asked(3, 3000), ["a", "b"]);
    assert_eq!((site.delivered(), site.waiting()), (2, 0));
    let awaited = site
        .workers
        .iter()
        .filter(|it| !it.device_requests.awaited.is_empty());
    assert_eq!(awaited.count(), 0);
}

#[test]
fn requests_follow_a_client_that_has_no_connection() {
    let mut site = connectionless(3);
    site.says_who(0, 1000, "meter");
    site.ask_device(0, "meter", "a");
    site.pass(Duration::from_secs(100));
    site.sent(0, 1000);
    // It sleeps again before it hears of it, and wakes at a third address.
    site.says_who(2, 2000, "meter");
    site.pass(Duration::from_secs(100));
    site.sent(2, 2000);
    site.says_who(1, 3000, "other");
    assert!(site.asked(1, 3000).is_empty());
    site.says_who(1, 4000, "meter");
    assert_eq!(site.asked(1, 4000), ["a"]);
    assert_eq!((site.delivered(), site.waiting()), (1, 0));
    let left: usize = site.workers.iter().map(|it| it.device_requests.len()).sum();
    assert_eq!(left, 0, "no worker keeps what it passed on");
}

#[test]
fn requests_keep_their_order_when_their_client_moves_while_one_is_on_its_way() {
    let mut site = Site::new(2);
    site.create(0, 1000, "meter");
    for path in ["a", "b", "c"] {
        site.ask_device(0, "meter", path);
    }
    site.create(1, 2000, "meter");
    assert_eq!(site.asked(1, 2000), ["a", "b", "c"]);
    assert_eq!((site.delivered(), site.waiting()), (3, 0));
    let left: usize = site.workers.iter().map(|it| it.device_requests.len()).sum();
    assert_eq!(left, 0);
}

#[test]
fn what_follows_a_client_that_is_gone_again_waits_until_it_is_heard_of() {
    let mut site = connectionless(3);
    site.says_who(0, 1000, "meter");
    for path in ["a", "b"] {
        site.ask_device(0, "meter", path);
    }
    site.pass(Duration::from_secs(100));
    site.sent(0, 1000);
    let publish = site.request(RequestType::Post, "ps/x", &["clientid=meter"]);
    let input = Input::Datagram {
        listener: ListenerId(0),
        from: ([127, 0, 0, 1], 2000).into(),
        local: None,
        bytes: &mut publish.to_bytes().unwrap(),
    };
    site.workers[2].handle(site.now, input);
    let mut strays = 0;
    while let Some((worker, output)) = (0..3).find_map(|it| Some((it, site.workers[it].poll_output()?))) {
        match output {
            // It is nowhere by then.
            Output::Worker { message, .. } if matches!(message, WorkerMessage::TakeOver(_)) => {
                strays += 1;
                site.workers[1].handle(site.now, Input::Worker(message));
            }
            output => site.output(worker, output),
        }
    }
    assert_eq!((strays, site.answers.len()), (2, 0));
    site.pass(Duration::from_secs(100));
    assert_eq!((site.waiting(), site.answers.len()), (2, 0));
    site.says_who(1, 3000, "meter");
    assert_eq!(site.asked(1, 3000), ["a", "b"]);
    assert_eq!((site.delivered(), site.waiting()), (2, 0));
    let left: usize = site.workers.iter().map(|it| it.device_requests.len()).sum();
    assert_eq!(left, 0);
}

#[test]
fn who_has_only_the_name_of_a_client_does_not_get_what_waits_for_it() {
    let mut site = Site::new(3);
    let create = |site: &mut Site, worker, port, user: &str| {
        let request = site.request(
            RequestType::Post,
            "mqtt/connection",
            &["c=meter", &format!("u={user}")],
        );
        assert_eq!(code(&site.ask(worker, port, &request)[0]), ResponseType::Created);
    };
    create(&mut site, 0, 1000, "ann");
    site.ask_device(0, "meter", "secret");
    site.pass(Duration::from_secs(600));
    site.sent(0, 1000);
    create(&mut site, 1, 2000, "bob");
    assert!(site.asked(1, 2000).is_empty());
    site.pass(Duration::from_secs(60));
    create(&mut site, 2, 3000, "ann");
    assert_eq!(site.asked(2, 3000), ["secret"]);
    assert_eq!(site.delivered(), 1);
}

#[test]
fn what_waits_for_a_client_that_is_kicked_ends_with_it() {
    let mut site = Site::new(2);
    site.create(0, 1000, "meter");
    for path in ["a", "b", "c"] {
        site.ask_device(0, "meter", path);
    }
    site.pass(Duration::from_secs(20));
    let client = ClientId::new("meter").unwrap();
    let kicked = site.control(0, ControlRequest::Kick { client });
    assert!(matches!(kicked, ControlAnswer::Done));
    let gone = |answer: &ControlAnswer| matches!(answer, ControlAnswer::Answered(Err(RequestError::Gone)));
    assert!(
        site.answers.len() == 3 && site.answers.iter().all(gone),
        "{:?}",
        site.answers
    );
    assert_eq!((site.waiting(), site.workers[0].device_requests.len()), (0, 0));
    site.create(1, 2000, "meter");
    assert!(site.asked(1, 2000).is_empty());
}
