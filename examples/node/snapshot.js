// What monitors show of a stage: its snapshot (PROTOCOL.md, 5.9). Only who it is and its counts are needed.
const { performance } = require("perf_hooks");
let before = { at: 0 };

module.exports = (who, counts, upstream, producers) => {
  const at = (performance.timeOrigin + performance.now()) / 1000;  // nobody sets this clock while the process lives
  const body = { ...who, at, run: process.env.ZPIPE_RUN || "", pid: process.pid, version: "example 1", rss_bytes: process.memoryUsage.rss() };
  Object.assign(body, { filtered: 0, returned: 0, queued: 0, in_process: 0, queued_bytes: 0, links: [], ...counts });
  const done = body.completed + body.dead, seconds = at - before.at;
  body.rate_in = before.at ? (body.received - before.received) / seconds : 0;
  body.rate_out = before.at ? (done - before.done) / seconds : 0;
  before = { at, done, received: body.received };
  body.sessions = producers.filter((one) => one.session).map((one) => ({ from: upstream, outlet: "", instance: one.instance,
    incarnation: one.incarnation, received: one.arrived, queued: 0, unacked: one.arrived - one.released }));
  return body;
};
