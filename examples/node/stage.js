// What a map and a sink at level 1 of PROTOCOL.md share: what they are told, their sockets, and the side towards their producers.
// Credit is a fixed share of the queue for each producer; a parcel is acked when all that came of it is finished.
const fs = require("fs"), crypto = require("crypto"), zmq = require("zeromq"), snapshot = require("./snapshot.js");
const { Encoder } = require("cbor-x");
const plain = { useRecords: false, tagUint8Array: false, mapsAsObjects: true };
const cbor = new Encoder(plain), frames = new Encoder({ ...plain, int64AsNumber: true });  // a frame's numbers are not to be BigInt
const { ZPIPE_RUNTIME_DIR: ROOT, ZPIPE_PIPELINE: PIPELINE, ZPIPE_STAGE: STAGE } = process.env;
const INSTANCE = Number(process.env.ZPIPE_INSTANCE), CONFIG = JSON.parse(process.env.ZPIPE_CONFIG);
const FOLDER = `${ROOT}/${PIPELINE}.${STAGE}.${INSTANCE}`, UPSTREAM = CONFIG.inputs[0].stage;
const ME = crypto.randomBytes(8).toString("hex"), SECRET = crypto.randomBytes(16), INBOX = `ipc://${FOLDER}/inbox-${ME}.sock`;
const HEARTBEAT = 1000, TIMEOUT = 5000, SHARES = CONFIG.inputs[0].instances, producers = new Map();
let turned = Date.now(), beat = 0, shown = 0, exiting = false;
fs.mkdirSync(FOLDER, { recursive: true, mode: 0o700 });
const control = new zmq.Publisher(), feedback = new zmq.Router(), inbox = new zmq.Pull({ receiveHighWaterMark: 0 });
const same = (a, b) => Boolean(a && b && Buffer.compare(a, b) === 0);

let saying = Promise.resolve(), answering = Promise.resolve();  // one send at a time on a socket
const publish = (topic, frame) => (saying = saying.then(() => control.send([topic, cbor.encode(frame)])));
const answer = (route, frame) => (answering = answering.then(() => feedback.send([route, cbor.encode(frame)])).catch(() => {}));
const refuse = (route, session, reason, number) => answer(route, { kind: "refuse", session, reason, number });
const sound = (take) => { try { take(); } catch (error) { console.error(`malformed frame: ${error.message}`); } };  // it is dropped
async function tellKeeper(frame) {
  const dealer = new zmq.Dealer({ linger: 0, receiveTimeout: TIMEOUT });
  dealer.connect(process.env.ZPIPE_DEAD_LETTERS);
  await dealer.send(cbor.encode(frame));
  const said = frames.decode((await dealer.receive())[0]);
  dealer.close();
  if (said.kind !== "done") throw new Error(`the keeper refuses: ${said.reason}`);
}
const bury = ({ id, origin, payload }, reason) =>  // only when this is over may the message count as finished
  tellKeeper({ kind: "bury", number: 1, id, origin, payload: cbor.encode(payload), attempts: 1, reason, source: UPSTREAM });

class Producer {  // an upstream instance, to which this is a consumer
  constructor(instance, stage) {
    Object.assign(this, { stage, instance: Number(instance) });
    const folder = `ipc://${ROOT}/${PIPELINE}.${UPSTREAM}.${instance}`;
    Object.assign(this, { number: 0, incarnation: "", accepted: new Map(), stopped: false, ended: false, up: false, sending: Promise.resolve() });
    this.reset();
    this.dealer = new zmq.Dealer({ linger: 0 }), this.sub = new zmq.Subscriber();
    this.dealer.events.on("handshake", () => { this.up = true; this.begin(); });
    this.dealer.events.on("disconnect", () => { this.up = false; this.reset(); });
    this.dealer.connect(`${folder}/feedback.sock`), this.sub.subscribe("announcement"), this.sub.connect(`${folder}/control.sock`);
    (async () => { for await (const [frame] of this.dealer) sound(() => this.answered(frames.decode(frame))); })();
    (async () => { for await (const [, frame] of this.sub) sound(() => this.announced(frames.decode(frame))); })();
  }
  reset() {
    Object.assign(this, { session: null, statements: 0, sequence: 0, released: 0, bytes: 0, arrived: 0, arrivedBytes: 0, limits: [0, 0], need: 0, floor: 0, endCame: false });
    Object.assign(this, { parcels: new Map(), heard: Date.now() });
  }
  begin() { this.reset(); this.number += 1; this.hello(); }  // a new session
  say(frame) { this.sending = this.sending.then(() => this.dealer.send(cbor.encode(frame))).catch(() => {}); }
  hello() {
    this.say({ kind: "hello", version: 2, pipeline: PIPELINE, stage: STAGE, instance: INSTANCE, incarnation: ME, secret: SECRET, upstream: UPSTREAM,
      inbox: INBOX, number: this.number, queue_messages: CONFIG.queue.messages });
  }
  announced(frame) {
    if (frame.kind !== "announcement" || !frame.incarnation) throw new Error("no announcement");
    this.heard = Date.now();
    if (this.session && frame.incarnation !== this.incarnation) this.begin();
    const before = this.stopped;
    this.stopped = frame.state === "STOPPED", this.ended = this.stopped && Boolean(frame.ended);
    if (this.stopped && !before && this.session) this.state();
  }
  answered(frame) {
    this.heard = Date.now();
    if (frame.kind === "welcome" && !this.session && frame.number === this.number) {
      if (frame.incarnation !== this.incarnation) this.accepted.clear();
      this.session = frame.session, this.incarnation = frame.incarnation, this.state();
    } else if (frame.kind === "refuse") {
      console.error(`refused: ${frame.reason}`);
      if (same(frame.session, this.session)) this.begin();
    } else if (frame.kind === "confirm" && same(frame.session, this.session)) {
      for (const number of this.accepted.keys()) if (number < frame.lowest) this.accepted.delete(number);
      const need = frame.need_bytes || 0;
      if (frame.sequence >= this.sequence && need !== this.need) { this.need = need; this.state(); }
    }
  }
  state() {
    const part = this.instance <= SHARES ? Math.floor(CONFIG.queue.messages / SHARES) : 0;  // one that the config has not has one at a time
    const extra = this.need && this.arrived === this.released ? this.need : 0, bytes = Math.floor(CONFIG.queue.bytes / SHARES);
    this.limits = [this.released + Math.max(1, part), Math.max(this.limits[1], this.bytes + bytes, this.arrivedBytes + extra)];
    this.statements += 1;
    this.say({ kind: "statement", session: this.session, number: this.statements, limit_messages: this.limits[0], limit_bytes: this.limits[1], received: this.sequence,
      released: this.released, floor: this.floor, seen_stopped: this.stopped });
  }
  async take(header, body) {
    if (header.sequence <= this.sequence) return;  // a copy
    const rows = header.sections || [], count = rows.reduce((n, row) => n + row[0], 0), bytes = rows.reduce((n, row) => n + row[1], 0);
    const over = this.arrived + count > this.limits[0] || this.arrivedBytes + bytes > this.limits[1];
    if (header.sequence !== this.sequence + 1 || bytes !== body.length || (count && over)) return this.begin();
    this.sequence = header.sequence, this.arrived += count, this.arrivedBytes += bytes, this.endCame = !count;
    const parcel = { producer: this, session: this.session, left: count, count, bytes };
    this.parcels.set(this.sequence, parcel);
    const fresh = [];
    let at = 0;
    for (const [messages, size, first] of rows) {
      const section = body.subarray(at, at + size);
      at += size;
      let columns;
      try {
        columns = cbor.decode(section);
        if (columns.slice(0, 3).some((column) => column.length !== messages)) throw new Error("columns of other lengths");
      } catch (error) {
        const id = `${UPSTREAM}.${this.instance}/${this.incarnation}:${first}`;
        await bury({ id, origin: 0, payload: section }, `malformed section: ${error.message}`);
        this.stage.dead(messages), parcel.left -= messages;
        continue;
      }
      for (let n = 0; n < messages; n++) {
        const copy = this.accepted.get(first + n);
        if (copy === null) parcel.left -= 1;  // finished before
        else if (copy) copy.parcel = parcel;  // in process: the newest parcel waits for it
        else {
          const message = { parcel, from: first + n, id: columns[0][n], origin: columns[1][n], payload: columns[2][n] };
          this.accepted.set(first + n, message), fresh.push(message);
        }
      }
    }
    this.settle(), this.session && this.state();
    if (fresh.length) await this.stage.take(fresh);
  }
  settle() {  // acks what is finished from the first on; credit comes back with it
    for (let parcel; (parcel = this.parcels.get(this.floor + 1)) && parcel.left <= 0; this.parcels.delete(this.floor)) {
      this.floor += 1, this.released += parcel.count, this.bytes += parcel.bytes;
    }
  }
}
function finished(message) {
  const { parcel: { producer, session }, parcel, from } = message;
  if (producer.accepted.get(from) === message) producer.accepted.set(from, null);  // the number is not a later incarnation's
  parcel.left -= 1;
  if (!same(session, producer.session)) return;
  const before = producer.floor;
  producer.settle();
  if (producer.floor > before) producer.state();
}

// `stage` has `state`, take(messages), dead(count), counts(), asked(route, frame) and tick(now, stood, beats, all).
const who = (stage) => ({ pipeline: PIPELINE, stage: STAGE, instance: INSTANCE, incarnation: ME, state: stage.state });
const announcement = (stage) => ({ kind: "announcement", ...who(stage), ended: stage.state === "STOPPED" });
const shownNow = (stage) => ({ kind: "snapshot", body: snapshot(who(stage), stage.counts(), UPSTREAM, [...producers.values()]) });
function announce(stage) { publish("announcement", announcement(stage)), show(stage); }
function show(stage) { shown = Date.now(), publish("snapshot", shownNow(stage)); }
async function exit(stage) {  // the keeper's subscription may have come too late for what was published
  if (exiting) return;
  exiting = true;
  await tellKeeper(shownNow(stage)).then(() => tellKeeper(announcement(stage))).catch((error) => console.error(`the keeper: ${error.message}`));
  setTimeout(() => process.exit(0), 200);  // what was stated leaves before
}
function tick(stage) {
  const now = Date.now(), stood = now - turned > TIMEOUT, beats = now - beat >= HEARTBEAT;  // stood: stopped by a signal, and woken
  turned = now;
  for (const name of fs.readdirSync(ROOT)) {
    const [pipeline, upstream, instance] = name.split(".");
    const found = pipeline === PIPELINE && upstream === UPSTREAM && !producers.has(instance) && fs.existsSync(`${ROOT}/${name}/feedback.sock`);
    if (found) producers.set(instance, new Producer(instance, stage));
  }
  const some = [...producers.values()];  // one that left has nothing to come either, but the stream ends only where it was said
  const all = (test) => some.some(test) && some.every((one) => (one.stopped && !one.ended) || test(one));
  stage.tick(now, stood, beats, all);
  if (now - shown >= (CONFIG.interval_s || 1) * 1000) show(stage);
  if (!beats) return;
  beat = now, announce(stage);
  for (const one of producers.values()) {
    if (one.session && (stood || now - one.heard > TIMEOUT)) one.begin();
    else if (one.session) one.state();
    else if (one.up) one.hello();
  }
}
async function run(stage) {
  await inbox.bind(INBOX), await feedback.bind(`ipc://${FOLDER}/feedback.sock`), await control.bind(`ipc://${FOLDER}/control.sock`);
  setInterval(() => tick(stage), HEARTBEAT / 10);
  (async () => { for await (const [route, encoded] of feedback) sound(() => stage.asked(route, frames.decode(encoded))); })();
  for await (const [head, body, more] of inbox) {
    let header;
    try { header = frames.decode(head); } catch { header = null; }
    if (!header || !header.session || !body || more) console.error("malformed frame in the inbox");
    else for (const one of producers.values()) if (same(header.session, one.session)) await one.take(header, body);
  }
}
module.exports = { bury, zmq, crypto, cbor, ROOT, PIPELINE, STAGE, INSTANCE, CONFIG, ME, TIMEOUT, same, answer, refuse, announce, exit, finished, run };
