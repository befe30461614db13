// A sink at level 1 of PROTOCOL.md: appends the id of each message to the file `options.path`, a line each, durably.
const fs = require("fs");
const { CONFIG, announce, exit, finished, refuse, run } = require("./stage.js");
const file = fs.openSync(CONFIG.options.path, "a");
let received = 0, dead = 0;

const sink = {
  state: "RUNNING",
  dead(count) { dead += count; },
  counts: () => ({ received: received + dead, completed: received, dead }),
  take(messages) {
    fs.writeSync(file, messages.map((one) => one.id + "\n").join("")), fs.fsyncSync(file);
    received += messages.length, messages.forEach(finished);  // durable, so they may be acked
  },
  asked(route, frame) {  // a last stage has no consumers, and level 1 no requests
    refuse(route, Buffer.alloc(0), "no such request", frame.number || 0);
  },
  tick(now, stood, beats, all) {
    if (this.state !== "RUNNING" || !all((one) => one.ended && one.floor === one.sequence)) return;
    this.state = "STOPPED";
    announce(this), exit(this);
  },
};
run(sink);
