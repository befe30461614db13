// A sink at level 1 of PROTOCOL.md, complete in this file: it appends the id of each message to a file. Neighbours are told how things
// stand, again and again, so that is kept in the frames that tell it. To close a session is always safe: what is unacked comes again.
const crypto = require("crypto"), fs = require("fs"), zmq = require("zeromq"), { Encoder } = require("cbor-x");

const { ZPIPE_RUNTIME_DIR: ROOT, ZPIPE_PIPELINE: PIPELINE, ZPIPE_STAGE: STAGE, ZPIPE_INSTANCE: NUMBER } = process.env;
const { inputs: [{ stage: UPSTREAM, instances: SHARES }], queue, options } = JSON.parse(process.env.ZPIPE_CONFIG);
const ME = { pipeline: PIPELINE, stage: STAGE, instance: Number(NUMBER), incarnation: crypto.randomBytes(8).toString("hex") };
const FOLDER = `ipc://${ROOT}/${PIPELINE}.${STAGE}.${NUMBER}`, INBOX = `${FOLDER}/inbox-${ME.incarnation}.sock`;
const HELLO = { kind: "hello", version: 2, ...ME, secret: crypto.randomBytes(16), upstream: UPSTREAM, queue_messages: queue.messages };
const announcement = { kind: "announcement", ...ME, state: "RUNNING", ended: false }, HEARTBEAT = 1000, TIMEOUT = 5000;
const cbor = new Encoder({ useRecords: false, tagUint8Array: false, int64AsNumber: true });
const inbox = new zmq.Pull({ receiveHighWaterMark: 0 }), feedback = new zmq.Router(), control = new zmq.Publisher();
const publish = sender(control), answer = sender(feedback), producers = new Map();
const encoded = (part) => (part.kind ? cbor.encode(part) : part), same = (a, b) => Boolean(a && b && Buffer.compare(a, b) === 0);

const file = fs.openSync(options.path, "a");
function store(ids) {  // what is acked is durable. If it throws, this process ends with nothing of it acked
  fs.writeSync(file, ids.map((id) => `${id}\n`).join(""));
  fs.fsyncSync(file);
}

function sender(socket) {  // zeromq.js takes one send at a time. What fails is said again
  let last = Promise.resolve();
  return (...parts) => { const message = parts.map(encoded); last = last.then(() => socket.send(message)).catch(() => {}); };
}
async function each(socket, take) {  // what is malformed is dropped, and costs nobody a session
  for await (const parts of socket) try { take(...parts); } catch (error) { console.error(`malformed frame: ${error.message}`); }
}
async function tellKeeper(frame) {  // over once the keeper has it
  const dealer = new zmq.Dealer({ linger: 0, receiveTimeout: TIMEOUT });
  dealer.connect(process.env.ZPIPE_DEAD_LETTERS), await dealer.send(encoded(frame));
  const { kind, reason } = cbor.decode((await dealer.receive().finally(() => dealer.close()))[0]);
  if (kind !== "done") throw new Error(`the keeper refuses: ${reason}`);
}

function follow(name, base = `ipc://${ROOT}/${name}`) {  // is the consumer of that upstream instance; its credit is a fixed share
  const dealer = new zmq.Dealer({ linger: 0, immediate: true, sendTimeout: 0 }), announcements = new zmq.Subscriber();
  const one = { beat, parcel, stopped: false, ended: false }, send = sender(dealer);
  let said = null, number = 1, heard = 0, incarnation = "", accepted = new Set(), arrived = 0, bytes = 0, storedBytes = 0, storing = null;
  const close = (why) => { said = null, number += 1, console.error(`${name}: ${why}`); };  // the next heartbeat asks for another session
  const check = () => said && Date.now() - heard > TIMEOUT && close("it was silent, or this process stood still");
  function beat() { check(); if (said) state(); else send({ ...HELLO, inbox: INBOX, number }); }
  function state(need = 0) {
    const limit_bytes = Math.max(said.limit_bytes, storedBytes + Math.floor(queue.bytes / SHARES), need && bytes + need);
    const limit_messages = said.released + Math.max(1, Math.floor(queue.messages / SHARES)), seen_stopped = one.stopped;
    send(Object.assign(said, { number: said.number + 1, limit_messages, limit_bytes, seen_stopped }));
  }
  function hear(frame) {
    check(), heard = Date.now();
    const { kind, session } = frame, ours = said && same(session, said.session), stopped = frame.state === "STOPPED";
    if (kind === "announcement" && frame.incarnation) {
      if (said && frame.incarnation !== incarnation) close("it has been started again");
      Object.assign(one, { stopped, ended: stopped && frame.ended });
      if (stopped && said) state();
    } else if (kind === "welcome" && !said && frame.number === number) {
      if (frame.incarnation !== incarnation) accepted = new Set();  // its numbers are new
      incarnation = frame.incarnation, arrived = bytes = storedBytes = 0;
      said = { kind: "statement", session, number: 0, limit_messages: 0, limit_bytes: 0, received: 0, released: 0, floor: 0 };
      state();
    } else if (kind === "confirm" && ours) {
      const { number: stated, sent_messages, sent_bytes } = frame, { limit_messages, limit_bytes } = said;  // no limit is ever lowered
      if (stated > said.number || sent_messages > limit_messages || sent_bytes > limit_bytes) return close("a confirm that cannot be true");
      for (const old of accepted) if (old < frame.lowest) accepted.delete(old);
      const idle = arrived === said.released && frame.sequence >= said.received;  // so there is room for any one message
      if (idle && frame.need_bytes) state(frame.need_bytes);
    } else if (kind === "refuse" && (ours || !said)) close(frame.reason);
  }
  function parcel({ session, sequence, sections = [] }, body) {
    const sum = (column) => sections.reduce((total, row) => total + row[column], 0), count = sum(0), mine = said;
    if (!said || !same(session, said.session) || sequence <= said.received) return;  // another's, or a copy
    const over = count && (arrived + count > said.limit_messages || bytes + body.length > said.limit_bytes);
    if (sequence !== said.received + 1 || sum(1) !== body.length || over) return close("a parcel that is not due");
    said.received = sequence, arrived += count, bytes += body.length;
    let at = 0;
    const ids = sections.flatMap(([messages, size, first]) => section(messages, first, body.subarray(at, (at += size))));
    storing = Promise.all([storing, ...ids]).then(([, ...ids]) => {  // one parcel after another, since a floor acks all up to it
      store(ids.filter((id) => id !== undefined));
      mine.floor = sequence, mine.released += count;
      if (said === mine) storedBytes += body.length, state();
    });
    state();
  }
  function section(count, first, body) {  // gives the ids of the messages that are new; of one that is malformed a dead letter
    try {
      const [ids, origins, payloads] = cbor.decode(body);
      if ([ids, origins, payloads].some((column) => column.length !== count)) throw new Error("its columns differ in length");
      return ids.filter((id, n) => !accepted.has(first + n) && accepted.add(first + n));
    } catch ({ message }) {
      return tellKeeper({ kind: "bury", number: 1, id: `${name}/${incarnation}:${first}`, payload: cbor.encode(body), reason: message });
    }
  }
  dealer.events.on("handshake", beat), dealer.events.on("disconnect", () => close("gone")), dealer.connect(`${base}/feedback.sock`);
  for (const socket of [dealer, announcements]) each(socket, (...parts) => hear(cbor.decode(parts.pop())));
  announcements.subscribe("announcement"), announcements.connect(`${base}/control.sock`);
  return one;
}

function turn() {  // stops once every producer has ended; these end when all that they sent is acked
  const from = [...producers.values()], ended = from.some((one) => one.ended) && from.every((one) => one.stopped);
  if (ended && announcement.state === "RUNNING") stop(true);
}
async function stop(ended) {  // tells the keeper as well, whose subscription may have come too late for what was published
  publish("announcement", Object.assign(announcement, { state: "STOPPED", ended }));
  await tellKeeper(announcement).catch((error) => console.error(error.message));
  process.exit(0);
}
function heartbeat() {
  const there = (name) => name.startsWith(`${PIPELINE}.${UPSTREAM}.`) && fs.existsSync(`${ROOT}/${name}/feedback.sock`);
  for (const name of fs.readdirSync(ROOT)) if (!producers.has(name) && there(name)) producers.set(name, follow(name));
  producers.forEach((one) => one.beat());
  publish("announcement", announcement);
}
each(inbox, (head, body, more) => more || producers.forEach((one) => one.parcel(cbor.decode(head), body)));
each(feedback, (route, encoded) => {  // nobody consumes from a last stage, and level 1 knows no requests
  const { kind, number = 0 } = cbor.decode(encoded);
  if (kind !== "refuse") answer(route, { kind: "refuse", session: Buffer.alloc(0), reason: "no such request", number });
});
process.on("SIGTERM", () => stop(false));  // level 1 leaves at once: what is held comes again
Promise.all([inbox.bind(INBOX), feedback.bind(`${FOLDER}/feedback.sock`), control.bind(`${FOLDER}/control.sock`)])
  .then(heartbeat).then(() => { setInterval(heartbeat, HEARTBEAT), setInterval(turn, HEARTBEAT / 10); });
