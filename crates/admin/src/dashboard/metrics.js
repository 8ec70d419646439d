// Numbers out of /api/v1/metrics.

/** The sum of the samples of `name` whose labels are as in `labels`. */
export function sum(metrics, name, labels = {}) {
  let total = 0;
  for (const sample of metrics.samples[name] ?? []) {
    if (Object.entries(labels).every(([key, value]) => sample.labels?.[key] === value)) total += sample.value;
  }
  return total;
}

/** The samples of `name` added up by one label, of those with `labels`: [[label, value], ...], largest first. */
export function by(metrics, name, label, labels = {}) {
  const totals = new Map();
  for (const sample of metrics.samples[name] ?? []) {
    if (!Object.entries(labels).every(([key, value]) => sample.labels?.[key] === value)) continue;
    const key = sample.labels?.[label] ?? "";
    totals.set(key, (totals.get(key) ?? 0) + sample.value);
  }
  return [...totals].filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]);
}

/** What counters came to in the last minutes, as far as this page has seen. */
export class Recent {
  constructor(span) {
    this.span = span;
    this.seen = new Map();
  }

  /** How much the sum of `name` grew, where it is looked at now and then. */
  grown(metrics, name) {
    const now = sum(metrics, name);
    const looks = this.seen.get(name) ?? [];
    // A restart sets it back.
    if (looks.length > 0 && looks.at(-1).value > now) looks.length = 0;
    if (looks.length === 0 || looks.at(-1).time < metrics.time - 10) looks.push({ time: metrics.time, value: now });
    while (looks.length > 1 && looks[0].time < metrics.time - this.span) looks.shift();
    this.seen.set(name, looks);
    return now - looks[0].value;
  }
}
