// What the numbers of /api/v1/metrics were in the last minutes, and what follows from their differences.

const KEPT = 300;

/** The sum of the samples of `name` whose labels are as in `labels`. */
export function sum(metrics, name, labels = {}) {
  let total = 0;
  for (const sample of metrics.samples[name] ?? []) {
    if (Object.entries(labels).every(([key, value]) => sample.labels?.[key] === value)) total += sample.value;
  }
  return total;
}

/** The samples of `name` added up by one label: [[label, value], ...], largest first. */
export function by(metrics, name, label) {
  const totals = new Map();
  for (const sample of metrics.samples[name] ?? []) {
    const key = sample.labels?.[label] ?? "";
    totals.set(key, (totals.get(key) ?? 0) + sample.value);
  }
  return [...totals].sort((a, b) => b[1] - a[1]);
}

function buckets(metrics, name) {
  const totals = new Map();
  for (const sample of metrics.samples[`${name}_bucket`] ?? []) {
    const bound = sample.labels.le === "+Inf" ? Infinity : Number(sample.labels.le);
    totals.set(bound, (totals.get(bound) ?? 0) + sample.value);
  }
  return [...totals].sort((a, b) => a[0] - b[0]);
}

/** Below this nothing is told apart: the bound of the first bucket. */
export function finest(metrics, name) {
  return buckets(metrics, name)[0]?.[0] ?? 0;
}

/**
 * The quantile of what was observed between two scrapes, within its bucket by straight line; undefined without any. Of one in the
 * first bucket only the bound is known.
 */
export function quantile(before, after, name, q) {
  const old = new Map(buckets(before, name));
  const steps = buckets(after, name).map(([bound, value]) => [bound, value - (old.get(bound) ?? 0)]);
  const total = steps.at(-1)?.[1] ?? 0;
  if (total <= 0) return undefined;
  let [lower, below] = [0, 0];
  for (const [bound, value] of steps) {
    if (value >= q * total) {
      if (bound === Infinity) return lower;
      if (lower === 0) return bound;
      return lower + (bound - lower) * ((q * total - below) / Math.max(value - below, 1e-9));
    }
    [lower, below] = [bound, value];
  }
  return lower;
}

export class History {
  constructor() {
    this.points = [];
    this.last = undefined;
  }

  /** Takes a scrape in; `derive(before, after, seconds)` makes of two of them the values to keep. */
  add(metrics, derive) {
    const before = this.last;
    this.last = metrics;
    if (!before) return;
    const time = metrics.time - before.time;
    // A restart sets the counters back: what lies between is not known.
    const restarted = sum(metrics, "portcullis_start_time_seconds") !== sum(before, "portcullis_start_time_seconds");
    if (time <= 0 || restarted) {
      this.points = [];
      return;
    }
    this.points.push({ time: metrics.time, ...derive(before, metrics, time) });
    if (this.points.length > KEPT) this.points.shift();
  }
}
