// A map at level 1 of PROTOCOL.md, complete in this file: it sends each payload on as `work` makes it. Neighbours are told how things
// stand, again and again, so that is kept in the frames that tell it. To close a session is always safe: what is unacked comes again.
const crypto = require("crypto"), fs = require("fs"), path = require("path"), zmq = require("zeromq"), { Encoder } = require("cbor-x");
const work = (payload) => payload;  // what it throws on becomes a dead letter

const { ZPIPE_RUNTIME_DIR: ROOT, ZPIPE_PIPELINE: PIPELINE, ZPIPE_STAGE: STAGE, ZPIPE_INSTANCE: NUMBER } = process.env;
const { inputs: [{ stage: UPSTREAM, instances: SHARES }], outputs: [{ to: DOWNSTREAM }], queue } = JSON.parse(process.env.ZPIPE_CONFIG);
const ME = { pipeline: PIPELINE, stage: STAGE, instance: Number(NUMBER), incarnation: crypto.randomBytes(8).toString("hex") };
const FOLDER = `ipc://${ROOT}/${PIPELINE}.${STAGE}.${NUMBER}`, INBOX = `${FOLDER}/inbox-${ME.incarnation}`, NOTHING = Buffer.alloc(0);
const HELLO = { kind: "hello", version: 2, ...ME, secret: crypto.randomBytes(16), upstream: UPSTREAM, queue_messages: queue.messages };
const announcement = { kind: "announcement", ...ME, state: "RUNNING", ended: false }, published = { announcement: () => announcement };

const cbor = new Encoder({ useRecords: false, tagUint8Array: false });  // of payloads: an integer above 2^53 becomes a BigInt
const frames = new Encoder({ useRecords: false, tagUint8Array: false, int64AsNumber: true }), HEARTBEAT = 1000, TIMEOUT = 5000;
const encoded = (part) => (part.kind ? frames.encode(part) : part), same = (a, b) => Boolean(a && b && Buffer.compare(a, b) === 0);
const inbox = new zmq.Pull({ receiveHighWaterMark: 0 }), feedback = new zmq.Router(), control = new zmq.Publisher();
const answer = sender(feedback), publish = sender(control), producers = new Map(), consumers = new Map(), counts = { made: 0, dead: 0 };
const refuse = (route, session, reason, number = 0) => answer(route, { kind: "refuse", session, reason, number });
function sender(socket) {  // zeromq.js takes one send at a time. What fails is said again, or its session is over
  let last = Promise.resolve();
  return (...parts) => { const message = parts.map(encoded); last = last.then(() => socket.send(message)).catch(() => {}); };
}
async function each(socket, take) {  // what is malformed is dropped, and costs nobody a session
  for await (const parts of socket) try { take(...parts); } catch (error) { console.error(`malformed frame: ${error.message}`); }
}
async function tellKeeper(frame) {  // over once the keeper has it. If that fails so does this process, and acks nothing of it
  const dealer = new zmq.Dealer({ linger: 0, receiveTimeout: TIMEOUT });
  dealer.connect(process.env.ZPIPE_DEAD_LETTERS), await dealer.send(encoded(frame));
  const { kind, reason } = frames.decode((await dealer.receive().finally(() => dealer.close()))[0]);
  if (kind !== "done") throw new Error(`the keeper refuses: ${reason}`);
}
const bury = (id, payload, error, count = 1) =>  // makes a dead letter
  tellKeeper({ kind: "bury", number: 1, id, payload: cbor.encode(payload), reason: `${error}`.slice(0, 1000) })
    .then(() => { counts.dead += count; });

function follow(name, base = `ipc://${ROOT}/${name}`) {  // is the consumer of that upstream instance; its credit is a fixed share
  const dealer = new zmq.Dealer({ linger: 0, immediate: true, sendTimeout: 0 }), announcements = new zmq.Subscriber();
  const one = { beat, parcel, stopped: false, ended: false, endCame: false, said: null, incarnation: "" }, send = sender(dealer);
  let number = 1, heard = 0, accepted = new Map(), bytes = 0, ackedBytes = 0, acking = null;
  const close = (why) => { one.said = null, one.endCame = false, number += 1, console.error(`${name}: ${why}`); };
  const check = () => one.said && Date.now() - heard > TIMEOUT && close("it was silent, or this process stood still");
  function beat() { check(); if (one.said) state(); else send({ ...HELLO, inbox: INBOX, number }); }
  function state(need = 0) {
    const { said } = one, limit_bytes = Math.max(said.limit_bytes, ackedBytes + Math.floor(queue.bytes / SHARES), need && bytes + need);
    const limit_messages = said.released + Math.max(1, Math.floor(queue.messages / SHARES)), seen_stopped = one.stopped;
    send(Object.assign(said, { number: said.number + 1, limit_messages, limit_bytes, seen_stopped }));
  }
  function hear(frame) {
    check(), heard = Date.now();
    const { said } = one, { kind, session } = frame, ours = said && same(session, said.session), stopped = frame.state === "STOPPED";
    if (kind === "announcement" && frame.incarnation) {
      if (said && frame.incarnation !== one.incarnation) close("it has been started again");
      Object.assign(one, { stopped, ended: stopped && frame.ended });
      if (stopped && one.said) state();
    } else if (kind === "welcome" && !said && frame.number === number) {
      if (frame.incarnation !== one.incarnation) accepted = new Map();  // its numbers are new
      one.incarnation = frame.incarnation, one.arrived = bytes = ackedBytes = 0, acking = null;
      one.said = { kind: "statement", session, number: 0, limit_messages: 0, limit_bytes: 0, received: 0, released: 0, floor: 0 };
      state();
    } else if (kind === "confirm" && ours) {
      const { number: stated, sent_messages, sent_bytes } = frame, { limit_messages, limit_bytes } = said;  // no limit is ever lowered
      if (stated > said.number || sent_messages > limit_messages || sent_bytes > limit_bytes) return close("a confirm that cannot be true");
      for (const old of accepted.keys()) if (old < frame.lowest) accepted.delete(old);
      const idle = one.arrived === said.released && frame.sequence >= said.received;  // so there is room for any one message
      if (idle && frame.need_bytes) state(frame.need_bytes);
    } else if (kind === "refuse" && (ours || !said)) close(frame.reason);
  }
  function parcel({ session, sequence, sections = [] }, body) {
    const { said } = one, sum = (column) => sections.reduce((total, row) => total + row[column], 0), count = sum(0);
    if (!said || !same(session, said.session) || sequence <= said.received) return;  // another's, or a copy
    const over = count && (one.arrived + count > said.limit_messages || bytes + body.length > said.limit_bytes);
    if (sequence !== said.received + 1 || sum(1) !== body.length || over) return close("a parcel that is not due");
    said.received = sequence, one.arrived += count, bytes += body.length, one.endCame = !count;
    let at = 0;
    const work = sections.flatMap(([messages, size, first]) => section(messages, first, body.subarray(at, (at += size))));
    acking = Promise.all([acking, ...work]).then(() => {  // in order, since a floor acks all up to it
      said.floor = sequence, said.released += count;
      if (said === one.said) ackedBytes += body.length, state();
    });
    state();
  }
  function section(count, first, body) {  // for each message a promise, kept once it is finished. A duplicate has that of the first copy
    try {
      const [ids, origins, payloads, headers] = cbor.decode(body);
      if ([ids, origins, payloads].some((column) => column.length !== count)) throw new Error("its columns differ in length");
      return ids.map((id, n) => {
        if (!accepted.has(first + n)) accepted.set(first + n, take(id, origins[n], payloads[n], headers && headers[n]));
        return accepted.get(first + n);
      });
    } catch (error) { return bury(`${name}/${one.incarnation}:${first}`, body, error, count); }
  }
  dealer.events.on("handshake", beat), dealer.events.on("disconnect", () => close("gone")), dealer.connect(`${base}/feedback.sock`);
  for (const socket of [dealer, announcements]) each(socket, (...parts) => hear(frames.decode(parts.pop())));
  announcements.subscribe("announcement"), announcements.connect(`${base}/control.sock`);
  return one;
}

// Outputs that are not acked are in `held`, in the order of their numbers; those of them that are in no session in `unsent`, too.
const held = new Set(), unsent = [], END = { body: NOTHING, acked() {} }, fillAll = () => consumers.forEach((one) => one.fill());
async function take(id, origin, payload, headers) {  // over once the output is acked, or the dead letter stored
  let body;
  try { body = cbor.encode([[id], [origin], [work(payload)], headers && [headers]]); } catch (error) { return bury(id, payload, error); }
  if (body.length > 1 << 24) return bury(id, payload, "its output is too large");  // an inbox ends the connection at 17 MiB
  const output = { body, number: (counts.made += 1), attempt: 1 };
  if (unsent.push(output) === 1) setImmediate(fillAll);  // by then all messages of the parcel have been taken
  return new Promise((acked) => held.add(Object.assign(output, { acked })));
}
function serve(route, hello) {  // is the producer of a downstream instance, in one session. Each message is a parcel of its own
  const push = new zmq.Push({ linger: 0, immediate: true, reconnectInterval: -1, sendHighWaterMark: hello.queue_messages + 64 });
  const said = { kind: "confirm", session: crypto.randomBytes(16), number: 0, sequence: 0, sent_messages: 0, sent_bytes: 0 };
  const newest = { number: 0, limit_messages: 0, limit_bytes: 0, received: 0, released: 0 }, parcels = new Map(), send = sender(push);
  const one = { beat, close, fill, stated, route, hello, said, newest, parcels, endSaid: false, silence: 0 };
  function close(reason) {  // what is unacked is unsent again, in order
    if (consumers.get(hello.instance) !== one) return;
    if (reason) refuse(one.route, said.session, reason);
    consumers.delete(hello.instance), push.close();
    for (const output of parcels.values()) if (output !== END) output.attempt += 1, unsent.push(output);
    unsent.sort((a, b) => a.number - b.number), fillAll();
  }
  const room = () => (said.sent_messages < one.newest.limit_messages ? one.newest.limit_bytes - said.sent_bytes : -1);
  function fill() {
    const open = one.newest.number && !one.newest.leaving;
    while (open && unsent.length && unsent[0].body.length <= room()) post(unsent.shift());
    if (open && !unsent.length && announcement.state !== "RUNNING" && !one.endSaid) post(END);
  }
  function post(output) {
    const { body, number, attempt } = output, sections = output === END ? [] : [[1, body.length, number, attempt, 0]];
    said.sequence += 1, said.sent_messages += sections.length, said.sent_bytes += body.length, one.endSaid = output === END;
    parcels.set(said.sequence, output), send({ kind: "parcel", session: said.session, sequence: said.sequence, sections }, body);
  }
  function confirm() {
    const [oldest = { number: counts.made + 1 }] = held, [next] = unsent, { number, released } = one.newest;
    const need_bytes = next && room() < next.body.length && (room() >= 0 || said.sent_messages === released) ? next.body.length : 0;
    answer(one.route, Object.assign(said, { number, lowest: oldest.number, need_bytes }));
  }
  function beat() { if ((one.silence += HEARTBEAT) > TIMEOUT) close("no progress"); else confirm(); }
  function stated(frame) {
    const { received, floor, ranges = [], returned = [] } = frame, last = Math.max(received, floor, ...ranges.map(([, stop]) => stop - 1));
    if (frame.number > one.newest.number) {
      if (last > said.sequence || returned.length) return close("what it acks was not sent, or handed back: all of it goes out again");
      if (received === said.sequence || received > one.newest.received) one.silence = 0;
      for (const [sequence, output] of parcels) {
        if (sequence > floor && !ranges.some(([start, stop]) => start <= sequence && sequence < stop)) continue;
        parcels.delete(sequence), held.delete(output), output.acked();
      }
      one.newest = frame, fill();
    }
    if (frame.reply) confirm();
  }
  push.events.on("disconnect", () => close()), push.connect(hello.inbox);
  return one;
}
function hello(route, frame) {
  const { instance, number } = frame, folder = `ipc://${ROOT}/${PIPELINE}.${DOWNSTREAM}.${instance}`, one = consumers.get(instance);
  const linked = frame.pipeline === PIPELINE && frame.upstream === STAGE && frame.stage === DOWNSTREAM && !frame.outlet && instance >= 1;
  const wrong = frame.version !== 2 ? `version ${frame.version}: this is version 2` : !linked ? `${PIPELINE}.${STAGE} has no such link`
    : path.dirname(frame.inbox) !== folder ? "the inbox is not in the folder of its instance"
    : one && !same(one.hello.secret, frame.secret) ? "in session by another connection" : "";
  if (wrong) return refuse(route, NOTHING, wrong, number);
  if (one && number < one.hello.number) return;  // a late copy
  if (one && number > one.hello.number) one.close();
  if (!consumers.has(instance)) consumers.set(instance, serve(route, frame));
  const { said: { session } } = Object.assign(consumers.get(instance), { route });
  answer(route, { kind: "welcome", version: 2, session, incarnation: ME.incarnation, number });
}
each(feedback, (route, encoded) => {
  const frame = frames.decode(encoded), { kind, session = NOTHING, number } = frame;
  const one = [...consumers.values()].find((one) => same(one.route, route) && same(one.said.session, session));
  if (kind === "hello") hello(route, frame);
  else if (one) kind === "statement" ? one.stated(frame) : one.close();
  else if (kind !== "refuse") refuse(route, session, session.length ? "no such session" : "no such request", number);
});

const say = () => Object.entries(published).forEach(([topic, frame]) => publish(topic, frame()));
const move = (state, ended = false) => { Object.assign(announcement, { state, ended }), say(), fillAll(); };
async function exit() {  // tells the keeper as well, whose subscription may have come too late for what was published
  clearInterval(turning);
  for (const frame of Object.values(published)) await tellKeeper(frame()).catch((error) => console.error(error.message));
  process.exit(0);
}
function turn() {  // goes on to the next state when it is time
  const { state } = announcement, from = [...producers.values()], to = [...consumers.values()];
  const all = (test) => from.some(test) && from.every((one) => test(one) || (one.stopped && !one.ended));  // but for who has left
  const acked = to.some((one) => !one.newest.leaving) && to.every((one) => one.endSaid && !one.parcels.size) && !held.size;
  if (state === "RUNNING" && all((one) => one.ended || one.endCame) && !unsent.length) move("FLUSHED");
  if (state === "FLUSHED" && all((one) => one.ended) && acked) move("STOPPED", true), setTimeout(exit, TIMEOUT);
  if (state === "STOPPED" && to.every((one) => one.newest.seen_stopped)) exit();
}
function heartbeat() {
  const there = (name) => name.startsWith(`${PIPELINE}.${UPSTREAM}.`) && fs.existsSync(`${ROOT}/${name}/feedback.sock`);
  for (const name of fs.readdirSync(ROOT)) if (!producers.has(name) && there(name)) producers.set(name, follow(name));
  for (const one of [...producers.values(), ...consumers.values()]) one.beat();
  say();
}
each(inbox, (head, body, more) => more || producers.forEach((one) => one.parcel(frames.decode(head), body)));
process.on("SIGTERM", () => { move("STOPPED"), exit(); });  // level 1 leaves at once: what is held comes again
const turning = setInterval(turn, HEARTBEAT / 10);
Promise.all([inbox.bind(INBOX), feedback.bind(`${FOLDER}/feedback.sock`), control.bind(`${FOLDER}/control.sock`)])
  .then(heartbeat).then(() => setInterval(heartbeat, HEARTBEAT));
module.exports = { announcement, consumers, counts, held, producers, published, say, unsent };
