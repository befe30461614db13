// A map at level 1 of PROTOCOL.md: sends each payload on as `work` makes it, one to one.
const { bury, zmq, crypto, cbor, ROOT, PIPELINE, STAGE, CONFIG, ME, TIMEOUT, same, answer, refuse, announce, exit, finished, run } = require("./stage.js");
const DOWNSTREAM = CONFIG.outputs[0].to, PARCEL = 256, consumers = new Map(), unsent = [], empty = Buffer.alloc(0);
let made = 0, dead = 0, stoppedAt = 0;
const work = (payload) => payload;

class Consumer {  // a session with a downstream instance, to which this is the producer
  constructor(route, hello) {
    Object.assign(this, { route, hello, name: crypto.randomBytes(16), sequence: 0, sent: 0, sentBytes: 0, newest: null, parcels: new Map(), end: 0, up: false, sending: Promise.resolve() });
    this.heard = this.progress = Date.now();
    this.push = new zmq.Push({ linger: 0, immediate: true, reconnectInterval: -1, sendHighWaterMark: hello.queue_messages + 64 });
    this.push.events.on("handshake", () => { this.up = true; fill(); });
    this.push.events.on("disconnect", () => giveUp(this));
    this.push.connect(hello.inbox);
  }
  held() { return [...this.parcels.values()].reduce((n, sent) => n + sent.length, 0); }
  row() {  // for monitors
    const { limit_messages, released } = this.newest || { limit_messages: this.sent, released: this.sent };
    return { instance: this.hello.instance, incarnation: this.hello.incarnation, credit: Math.max(0, limit_messages - this.sent), sent: this.sent,
      under_way: this.sent - released, in_flight: this.held(), unacked_parcels: this.parcels.size, rate: 0 };
  }
  post(header, body) {
    if (!this.newest || this.newest.received === this.sequence - 1) this.progress = Date.now();  // nothing else is under way
    this.sending = this.sending.then(() => this.push.send([cbor.encode(header), body])).catch(() => giveUp(this));
  }
  fill() {
    while (this.up && this.newest && !this.newest.leaving && unsent.length) {
      const room = Math.min(PARCEL, this.newest.limit_messages - this.sent), taken = [];
      for (const one of unsent) {
        if (taken.length >= room || (taken.length && (one.number !== taken[0].number + taken.length || one.attempt !== taken[0].attempt))) break;
        taken.push(one);
      }
      let body = encode(taken);
      while (taken.length && this.sentBytes + body.length > this.newest.limit_bytes) taken.length >>= 1, body = encode(taken);
      if (!taken.length) return;
      unsent.splice(0, taken.length), this.sequence += 1, this.parcels.set(this.sequence, taken);
      this.sent += taken.length, this.sentBytes += body.length;
      this.post({ kind: "parcel", session: this.name, sequence: this.sequence, sections: [[taken.length, body.length, taken[0].number, taken[0].attempt, 0]] }, body);
    }
    if (this.up && this.newest && map.state !== "RUNNING" && !unsent.length && this.end !== this.sequence) {
      this.end = ++this.sequence, this.parcels.set(this.end, []);
      this.post({ kind: "parcel", session: this.name, sequence: this.end }, empty);  // no sections: the end
    }
  }
  confirm() {
    const held = [...consumers.values()].flatMap((one) => [...one.parcels.values()].flat()).concat(unsent.slice(0, 1));
    const stuck = unsent.length && this.newest && this.sent === this.newest.released && this.parcels.size === 0;
    answer(this.route, { kind: "confirm", session: this.name, number: this.newest ? this.newest.number : 0, sequence: this.sequence, sent_messages: this.sent,
      sent_bytes: this.sentBytes, lowest: held.reduce((low, one) => Math.min(low, one.number), made + 1), need_bytes: stuck ? encode(unsent.slice(0, 1)).length : 0 });
  }
  stated(frame) {
    this.heard = Date.now();
    if (!this.newest || frame.number > this.newest.number) {
      const ranges = frame.ranges || [];
      if (frame.returned && frame.returned.length) {  // closing is always safe: all of it goes out again
        return refuse(this.route, this.name, "the session is closed with what was handed back", frame.number), giveUp(this);
      }
      if (Math.max(frame.received, frame.floor, ...ranges.map((range) => range[1] - 1)) > this.sequence) {
        return refuse(this.route, this.name, "it acks what was not sent", frame.number), giveUp(this);
      }
      if (!this.newest || frame.received > this.newest.received) this.progress = this.heard;
      this.newest = frame;
      for (const [sequence, sent] of this.parcels) {
        if (sequence > frame.floor && !ranges.some(([start, stop]) => start <= sequence && sequence < stop)) continue;
        this.parcels.delete(sequence), sent.forEach(finished);
      }
      fill();
    }
    if (frame.reply) this.confirm();
  }
}
const encode = (taken) => cbor.encode([taken.map((one) => one.id), taken.map((one) => one.origin), taken.map((one) => one.payload), null]);
const fill = () => consumers.forEach((one) => one.fill());
function giveUp(one) {  // what is unacked goes back, in order
  if (consumers.get(one.hello.instance) !== one) return;
  consumers.delete(one.hello.instance), one.push.close();
  const back = [...one.parcels.values()].flat();
  back.forEach((message) => (message.attempt += 1));
  unsent.push(...back), unsent.sort((a, b) => a.number - b.number), fill();
}
function hello(route, frame) {
  const inbox = `ipc://${ROOT}/${PIPELINE}.${DOWNSTREAM}.${frame.instance}/`;
  const wrong = frame.version !== 2 ? `version ${frame.version}: this is version 2` : frame.pipeline !== PIPELINE ? "another pipeline" : frame.upstream !== STAGE ? `this is ${STAGE}`
    : frame.stage !== DOWNSTREAM || frame.outlet ? "there is no such link" : frame.instance < 1 ? "there is no such instance"
    : !frame.inbox.startsWith(inbox) || frame.inbox.slice(inbox.length).includes("/") ? "the inbox is not in the folder of its instance" : "";
  if (wrong) return refuse(route, empty, wrong, frame.number || 0);
  let one = consumers.get(frame.instance);
  if (one && one.hello.incarnation === frame.incarnation && frame.number < one.hello.number) return;
  if (one && !same(one.hello.secret, frame.secret)) return refuse(route, empty, "in session by another connection", frame.number);
  if (one && frame.number > one.hello.number) giveUp(one), one = undefined;
  if (!one) consumers.set(frame.instance, (one = new Consumer(route, frame)));
  answer(route, { kind: "welcome", version: 2, session: one.name, incarnation: ME, number: frame.number });
}

const map = {
  state: "RUNNING",
  dead(count) { dead += count; },
  counts() {
    const in_flight = [...consumers.values()].reduce((n, one) => n + one.held(), 0), held = unsent.length + in_flight, acked = made - held;
    const sessions = [...consumers.values()].map((one) => one.row());
    const links = [{ outlet: "", to: DOWNSTREAM, produced: made, acked, in_flight, unsent: unsent.length, consumers: sessions }];
    return { received: made + dead, completed: made, dead, links };
  },
  async take(messages) {
    for (const one of messages) {
      try {
        unsent.push(Object.assign(one, { payload: work(one.payload), attempt: 1, number: ++made }));
      } catch (error) {  // a dead letter
        await bury(one, `${error}`), dead += 1, finished(one);
      }
    }
    fill();
  },
  asked(route, frame) {
    const one = [...consumers.values()].find((c) => same(c.name, frame.session) && same(c.route, route));
    if (frame.kind === "hello") hello(route, frame);
    else if (frame.kind === "statement" && one) one.stated(frame);
    else if (frame.kind === "refuse" && one) giveUp(one);
    else if (frame.kind !== "refuse") refuse(route, frame.session || empty, frame.session ? "no such session" : "no such request", frame.number || 0);
  },
  move(state) { this.state = state, announce(this), fill(); },
  tick(now, stood, beats, all) {
    for (const one of consumers.values()) {
      if (stood) one.heard = one.progress = now;
      const stuck = one.newest && one.newest.received < one.sequence && now - one.progress > TIMEOUT;
      if (now - one.heard > TIMEOUT || stuck) refuse(one.route, one.name, "no progress", 0), giveUp(one);
      else if (beats) one.confirm();
    }
    if (this.state === "RUNNING" && all((one) => one.endCame || one.ended) && !unsent.length) this.move("FLUSHED");
    const ends = consumers.size && [...consumers.values()].every((one) => one.end === one.sequence && one.parcels.size === 0);
    if (this.state === "FLUSHED" && all((one) => one.stopped) && !unsent.length && ends) stoppedAt = now, this.move("STOPPED");
    const seen = [...consumers.values()].every((one) => one.newest && one.newest.seen_stopped);
    if (this.state === "STOPPED" && (seen || now - stoppedAt > TIMEOUT)) exit(this);
  },
};
run(map);
