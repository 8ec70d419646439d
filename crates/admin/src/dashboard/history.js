// The last hour as the gateway has it, and what this page has seen of a gateway that was started anew since.

import { get } from "./api.js";

/** Points that are kept: two hours. */
const KEPT = 720;

export class History {
  constructor() {
    this.points = [];
    this.step = 10;
    this.floor = 0;
  }

  /** Takes in what came since the last time. */
  async read() {
    const last = this.points.at(-1)?.time ?? 0;
    const got = await get(`history?after=${last}`);
    this.step = got.step_seconds;
    this.floor = got.latency_floor_seconds;
    this.points.push(...got.points.filter((point) => point.time > last));
    if (this.points.length > KEPT) this.points.splice(0, this.points.length - KEPT);
  }

  /** The mean of `key` over the last seconds; nothing where there is none. */
  mean(key, seconds) {
    const end = this.points.at(-1)?.time ?? 0;
    const values = this.points.filter((point) => point.time > end - seconds).map((point) => point[key]).filter((value) => value !== null);
    return values.length === 0 ? undefined : values.reduce((total, value) => total + value, 0) / values.length;
  }
}
