// What is wrong now, or soon will be, each with the place to look at. The same things that the alerts for Prometheus tell.

import { Recent, by, sum } from "./metrics.js";
import { waitingWords } from "./state.js";
import { age, bytes, several, words } from "./words.js";

const DAY = 86400;
const recent = new Recent(600);

const level = { bad: 0, warn: 1 };

function process(status, metrics) {
  const found = [];
  if (!status.ready) found.push(["bad", "The gateway does not serve.", status.not_ready, "#listeners"]);
  if (sum(metrics, "portcullis_config_last_reload_successful") === 0) {
    found.push(["bad", "The last reload was refused.", "What the file says is not in force. The editor shows what is wrong with it.", "#settings/file"]);
  }
  const waiting = waitingWords();
  if (waiting) found.push(["warn", "A restart is needed.", `Until then this is not in force: ${waiting}.`, "#settings"]);
  for (const [action, workers] of by(metrics, "portcullis_overload_active", "action")) {
    found.push(["bad", `It defends itself against overload: ${words(action)}.`, `${several(workers, "worker")} of ${status.workers}`, "#settings/limits"]);
  }
  const [open, most] = [sum(metrics, "process_open_fds"), sum(metrics, "process_max_fds")];
  if (most > 0 && open > 0.8 * most) found.push(["warn", "File descriptors run out.", `${open} of ${most} are open.`, "#listeners"]);
  const drops = recent.grown(metrics, "portcullis_udp_socket_drops_total");
  if (drops > 0) found.push(["warn", "The kernel drops datagrams.", `${several(drops, "datagram")} in the last minutes: the workers are too slow, or a buffer is too small.`, "#listeners"]);
  return found;
}

function broker(status, metrics) {
  const { spool, connected, fault, state: said } = status.broker;
  const found = [];
  if (!connected) found.push(["bad", "The broker is away.", fault ?? said, "#settings/broker"]);
  for (const server of status.login_servers.filter((one) => !one.up)) {
    const where = server.listener ? `listener ${server.listener}` : "all listeners";
    found.push(["bad", `Nobody can log in: ${server.backend} is away.`, `${server.fault ?? ""} (${where}, for ${age(server.down_seconds ?? 0)})`, "#settings/authentication"]);
  }
  if (spool.failed) found.push(["bad", "The spool failed.", "Its disk does not take what is accepted.", "#settings/broker.spool"]);
  if (sum(metrics, "portcullis_retained_failed") > 0) found.push(["bad", "The store of retained messages failed.", "Its disk does not take them.", "#topics"]);
  if (spool.capacity_bytes > 0 && spool.bytes > 0.8 * spool.capacity_bytes) {
    found.push(["warn", "The spool fills up.", `${bytes(spool.bytes)} of ${bytes(spool.capacity_bytes)}`, "#settings/broker.spool"]);
  }
  const waited = metrics.time - spool.oldest_timestamp_seconds;
  if (spool.oldest_timestamp_seconds > 0 && waited > 900) {
    found.push(["warn", "Messages wait for the broker.", `The oldest of ${spool.messages} has waited for ${age(waited)}.`, "#settings/broker.spool"]);
  }
  const lost = recent.grown(metrics, "portcullis_spool_dropped_total");
  if (lost > 0) found.push(["bad", "Messages were lost.", `${several(lost, "message")} that waited for the broker, in the last minutes.`, "#settings/broker.spool"]);
  const undelivered = recent.grown(metrics, "portcullis_broker_undelivered_total");
  if (undelivered > 0) found.push(["warn", "Messages of the broker were lost.", `${several(undelivered, "message")} in the last minutes: the workers are too slow for them.`, "#topics"]);
  return found;
}

function certificates(metrics) {
  const found = [];
  for (const { labels, value } of metrics.samples.portcullis_certificate_not_after_seconds ?? []) {
    const left = value - metrics.time;
    const place = labels.use.startsWith("listeners.") ? "#listeners" : `#settings/${labels.use.split(".")[0]}`;
    if (left < 0) found.push(["bad", "A certificate has run out.", `${labels.use}, ${age(-left)} ago`, place]);
    else if (left < 14 * DAY) found.push(["warn", "A certificate runs out soon.", `${labels.use}, in ${age(left)}`, place]);
  }
  for (const { labels, value } of metrics.samples.portcullis_crl_next_update_timestamp_seconds ?? []) {
    if (value - metrics.time < DAY) found.push(["warn", "A revocation list is out of date, or soon will be.", `listener ${labels.listener}`, "#listeners"]);
  }
  return found;
}

function traffic(history) {
  const found = [];
  const [good, failed] = [history.mean("handshakes_per_second", 300) ?? 0, history.mean("failed_handshakes_per_second", 300) ?? 0];
  if (failed > 0.1 && failed > good) {
    found.push(["warn", "Most DTLS handshakes fail.", `${Math.round((100 * failed) / (good + failed))} % in the last five minutes`, "#events/handshake_failed"]);
  }
  const slow = history.mean("latency_p99_seconds", 300);
  if (slow > 1) found.push(["warn", "Requests are slow.", `One in a hundred takes over ${slow.toFixed(1)} s.`, "#overview/latency"]);
  return found;
}

/** All of it, the worst first: [{ kind, title, detail, place }]. */
export function concerns({ status, metrics, history }) {
  return [...process(status, metrics), ...broker(status, metrics), ...certificates(metrics), ...traffic(history)]
    .sort((a, b) => level[a[0]] - level[b[0]])
    .map(([kind, title, detail, place]) => ({ kind, title, detail, place }));
}
