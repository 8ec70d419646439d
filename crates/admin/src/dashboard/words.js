// Words for numbers, and the units that charts have.

const whole = new Intl.NumberFormat("en");
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

export function count(number) {
  return Math.abs(number) < 100000 ? whole.format(Math.round(number)) : short.format(number);
}

export function rate(number) {
  if (number === 0) return "0";
  if (number < 0.1) return number.toFixed(2);
  return number < 10 ? number.toFixed(1) : count(number);
}

/** Three digits that mean something, without zeros at the end. */
function digits(value) {
  return String(Number(value.toPrecision(3)));
}

export function seconds(value) {
  if (value === undefined || value === null) return "–";
  if (value === 0) return "0";
  if (value < 0.001) return `${digits(value * 1e6)} µs`;
  return value < 1 ? `${digits(value * 1000)} ms` : `${digits(value)} s`;
}

export function age(value) {
  if (value < 60) return `${Math.floor(value)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min`;
  if (value < 86400) return `${Math.floor(value / 3600)} h ${Math.floor((value % 3600) / 60)} min`;
  return `${Math.floor(value / 86400)} d ${Math.floor((value % 86400) / 3600)} h`;
}

export function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : digits(value)} ${units[unit]}`;
}

/** "1 observation", "2 observations". */
export function several(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** The words of the gateway as people write them. */
export function words(label) {
  return label.replaceAll("_", " ");
}

export function clock(seconds, exact = true) {
  const form = exact ? { hour: "2-digit", minute: "2-digit", second: "2-digit" } : { hour: "2-digit", minute: "2-digit" };
  return new Date(seconds * 1000).toLocaleTimeString([], { ...form, hourCycle: "h23" });
}

/** Units of charts: `show` is for a value, `tick` for a line of the axis; steps are whole, or of 1024, where that is said. */
export const units = {
  perSecond: { show: (value) => `${rate(value)}/s`, tick: (value) => `${Number(value.toPrecision(6))}/s`, least: 1 },
  seconds: { show: seconds, tick: seconds, least: 1e-4 },
  number: { show: count, tick: count, whole: true, least: 4 },
  percent: { show: (value) => `${rate(value)} %`, tick: (value) => `${Number(value.toPrecision(6))} %`, least: 10 },
  bytes: { show: bytes, tick: bytes, base: 1024, least: 1 << 20 },
};
