// The map of map.js, with snapshots (PROTOCOL.md, 5.9), so that monitors and the ledger of a run count this stage as well.
const { announcement, consumers, counts, held, producers, published, say, unsent } = require("./map.js");
const { inputs: [{ stage: UPSTREAM }], outputs: [{ to: DOWNSTREAM }], interval_s = 1 } = JSON.parse(process.env.ZPIPE_CONFIG);
let before = { at: 0, received: 0 }, rates = { rate_in: 0, rate_out: 0 };

function producerRow([folder, one]) {
  const { arrived, incarnation, said } = one;
  const instance = Number(folder.split(".").pop());
  return { from: UPSTREAM, outlet: "", instance, incarnation, received: arrived, queued: 0, unacked: arrived - said.released };
}

function consumerRow({ hello, newest, said, parcels }) {
  const { instance, incarnation } = hello, sent = said.sent_messages, in_flight = [...parcels.values()].filter((one) => one.attempt).length;
  const credit = Math.max(0, newest.limit_messages - sent);
  return { instance, incarnation, credit, sent, under_way: sent - newest.released, in_flight, unacked_parcels: parcels.size, rate: 0 };
}

function body() {
  const { kind, ended, ...who } = announcement, { made, dead } = counts;
  const at = (performance.timeOrigin + performance.now()) / 1000;  // nobody sets this clock while the process lives
  const received = made + dead, seconds = at - before.at;
  if (seconds > interval_s / 2) {  // a change of state may come soon after the snapshot before, and says nothing of the rates
    if (before.at) rates = { rate_in: (received - before.received) / seconds, rate_out: (received - before.received) / seconds };
    before = { at, received };
  }
  const outputs = { produced: made, acked: made - held.size, in_flight: held.size - unsent.length, unsent: unsent.length };
  return { ...who, at, run: process.env.ZPIPE_RUN || "", pid: process.pid, version: "example 1", rss_bytes: process.memoryUsage.rss(),
    ...rates, received, completed: made, dead, filtered: 0, returned: 0, queued: 0, in_process: 0, queued_bytes: 0,
    links: [{ outlet: "", to: DOWNSTREAM, ...outputs, consumers: [...consumers.values()].map(consumerRow) }],
    sessions: [...producers].filter(([, one]) => one.said).map(producerRow) };
}

published.snapshot = () => ({ kind: "snapshot", body: body() });
if (interval_s < 1) setInterval(say, interval_s * 1000);  // the heartbeat, which is each second, publishes it as well
