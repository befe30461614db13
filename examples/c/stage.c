/* What a map and a sink at level 1 of PROTOCOL.md share: the side towards their producers, and the stage's life.
   Credit is a fixed share of the queue for each producer; a parcel is acked when all that came of it is finished. */
#include "stage.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct Producer { /* an upstream instance, to which this is a consumer */
    u64 instance, number, sessions, statements, sequence, floor, released, bytes, arrived, arrived_bytes, need;
    u64 limit_messages, limit_bytes;
    bool up, open, changed, stopped, ended, end_came;
    uint8_t session[SECRET];
    char *incarnation; /* that the accepted numbers are of */
    double heard, greeted;
    void *dealer, *sub, *monitor;
    Parcel *first, *last; /* of the open session, from the floor on */
    struct Accepted { u64 number; Message *message; } *accepted; /* by number; without a message it is finished */
    size_t count, room;
};

char *root, *pipeline, *stage, incarnation[2 * SECRET + 1];
u64 dead, received;
static void *control, *inbox;
static char *inbox_address, *upstream;
static u64 instance, queue_messages, queue_bytes, shares = 1;
static double epoch_s, shown_at, interval_s = 1;
static uint8_t secret[SECRET];
static Producer *producers[MOST + 1];
static volatile sig_atomic_t told_to_leave;

/* ---- sessions with the producers */

static void hello(Producer *one) {
    cbor_item_t *frame = frame_of("hello");
    put_int(frame, "version", 2), put_text(frame, "pipeline", pipeline), put_text(frame, "stage", stage);
    put_int(frame, "instance", instance), put_text(frame, "incarnation", incarnation);
    put_bytes(frame, "secret", secret, SECRET), put_text(frame, "upstream", upstream);
    put_text(frame, "inbox", inbox_address), put_int(frame, "number", one->number);
    put_int(frame, "queue_messages", queue_messages);
    one->greeted = monotonic(), send_frame(one->dealer, frame, 0);
}

static void make_statement(Producer *one) {
    u64 part = one->instance <= shares ? queue_messages / shares : 0; /* one that the config has not, has one at a time */
    u64 share = one->bytes + queue_bytes / shares; /* and a message that is larger is let in alone */
    u64 alone = one->need && one->arrived == one->released ? one->arrived_bytes + one->need : 0;
    one->limit_messages = one->released + (part ? part : 1);
    if (share > one->limit_bytes) one->limit_bytes = share;
    if (alone > one->limit_bytes) one->limit_bytes = alone;
    cbor_item_t *frame = frame_of("statement");
    put_bytes(frame, "session", one->session, SECRET), put_int(frame, "number", ++one->statements);
    put_int(frame, "limit_messages", one->limit_messages), put_int(frame, "limit_bytes", one->limit_bytes);
    put_int(frame, "received", one->sequence), put_int(frame, "released", one->released);
    put_int(frame, "floor", one->floor), put_flag(frame, "seen_stopped", one->stopped);
    one->changed = false, send_frame(one->dealer, frame, 0);
}

static void begin(Producer *one) { /* another session: at once, but one a heartbeat */
    while (one->first) {
        Parcel *parcel = one->first;
        one->first = parcel->next;
        if (!parcel->left) free(parcel); /* else its last message frees it */
    }
    one->sessions += 1, one->number += 1, one->last = NULL, one->heard = monotonic();
    one->open = one->changed = one->end_came = false;
    one->statements = one->sequence = one->floor = one->released = one->bytes = one->arrived = one->arrived_bytes = 0;
    one->limit_messages = one->limit_bytes = one->need = 0;
    if (one->up && one->heard - one->greeted >= HEARTBEAT_S) hello(one);
}

static size_t position(Producer *one, u64 number) { /* of the first accepted number that is not below */
    size_t low = 0, high = one->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (one->accepted[middle].number < number) low = middle + 1;
        else high = middle;
    }
    return low;
}

static void accept_number(Producer *one, size_t place, u64 number, Message *message) {
    if (one->count == one->room) {
        one->room = one->room ? 2 * one->room : 1024;
        one->accepted = realloc(one->accepted, one->room * sizeof *one->accepted);
        if (!one->accepted) stop("realloc", strerror(errno));
    }
    memmove(one->accepted + place + 1, one->accepted + place, (one->count++ - place) * sizeof *one->accepted);
    one->accepted[place].number = number, one->accepted[place].message = message;
}

static void forget_below(Producer *one, u64 number) {
    size_t gone = position(one, number);
    one->count -= gone;
    if (gone) memmove(one->accepted, one->accepted + gone, one->count * sizeof *one->accepted);
}

static void less(Parcel *parcel, u64 by) { /* so many of its messages are finished, or wait for a later parcel */
    Producer *one = parcel->producer;
    parcel->left -= by;
    if (parcel->session != one->sessions) {
        if (!parcel->left) free(parcel);
        return;
    }
    while ((parcel = one->first) && !parcel->left) { /* acks from the first on; credit comes back with it */
        one->floor += 1, one->released += parcel->count, one->bytes += parcel->bytes, one->changed = true;
        if (!(one->first = parcel->next)) one->last = NULL;
        free(parcel);
    }
}

void finish(Message *one) {
    Producer *from = one->parcel->producer;
    size_t n = position(from, one->came_as);
    if (n < from->count && from->accepted[n].message == one) from->accepted[n].message = NULL;
    less(one->parcel, 1);
    cbor_decref(&one->id), cbor_decref(&one->origin), cbor_decref(&one->payload), free(one);
}

static const char *tell_keeper(cbor_item_t *frame) { /* why it does not have it; NULL: it has */
    const char *address = getenv("ZPIPE_DEAD_LETTERS"), *fault = NULL;
    void *dealer = opened(ZMQ_DEALER, ZMQ_RCVTIMEO, 5000);
    zmq_msg_t said;
    zmq_msg_init(&said);
    if (!address || zmq_connect(dealer, address)) fault = "there is none";
    else if (send_frame(dealer, frame, 0) < 0 || zmq_msg_recv(&said, dealer, 0) < 0) fault = "it does not answer";
    else {
        cbor_item_t *answered = decoded(zmq_msg_data(&said), zmq_msg_size(&said));
        if (!has_text(answered, "kind", "done")) fault = "it refuses";
        if (answered) cbor_decref(&answered);
    }
    zmq_msg_close(&said), zmq_close(dealer);
    return fault;
}

static void hand_over(const char *id, cbor_item_t *origin, const cbor_item_t *payload, const char *reason) {
    unsigned char *bytes;
    size_t room, size = cbor_serialize_alloc(payload, &bytes, &room);
    cbor_item_t *frame = frame_of("bury");
    put_int(frame, "number", 1), put_text(frame, "id", id), put(frame, "origin", origin), put_int(frame, "attempts", 1);
    put_bytes(frame, "payload", bytes, size), put_text(frame, "reason", reason), put_text(frame, "source", upstream);
    free(bytes);
    const char *fault = tell_keeper(frame); /* only then is the letter durable */
    if (fault) stop("a dead letter for the keeper", fault);
}

void bury(Message *one, const char *reason) {
    char *id = strndup((char *)cbor_string_handle(one->id), cbor_string_length(one->id));
    hand_over(id, cbor_incref(one->origin), one->payload, reason), free(id);
    dead += 1, finish(one);
}

static void bury_section(Producer *one, const cbor_item_t *row, const unsigned char *section) {
    char *id = text("%s.%llu/%s:%llu", upstream, one->instance, one->incarnation, at(row, 2));
    cbor_item_t *payload = cbor_build_bytestring(section, at(row, 1));
    hand_over(id, integer(0), payload, "a malformed section"), free(id), cbor_decref(&payload);
    received += at(row, 0), dead += at(row, 0);
}

static Message **unpack(Parcel *parcel, const cbor_item_t *row, const unsigned char *section, Message **end) {
    Producer *one = parcel->producer;
    u64 count = at(row, 0), first = at(row, 2);
    cbor_item_t *columns = decoded(section, at(row, 1)), **column = NULL;
    bool sound = columns && length(columns) == 4;
    if (sound) column = cbor_array_handle(columns);
    for (int n = 0; sound && n < 3; n++) sound = length(column[n]) == count;
    for (u64 n = 0; sound && n < count; n++) sound = cbor_isa_string(cbor_array_handle(column[0])[n]);
    if (!sound) bury_section(one, row, section), less(parcel, count);
    for (u64 n = 0; sound && n < count; n++) {
        size_t place = position(one, first + n);
        if (place < one->count && one->accepted[place].number == first + n) {
            Message *copy = one->accepted[place].message;
            if (!copy) less(parcel, 1); /* it was finished before */
            else less(copy->parcel, 1), copy->parcel = parcel; /* it is in process: the newest parcel waits for it */
            continue;
        }
        Message *message = calloc(1, sizeof *message);
        if (!message) stop("calloc", strerror(errno));
        message->parcel = parcel, message->came_as = first + n, message->attempt = 1;
        message->id = cbor_array_get(column[0], n), message->origin = cbor_array_get(column[1], n);
        message->payload = cbor_array_get(column[2], n);
        accept_number(one, place, first + n, message);
        received += 1, *end = message, end = &message->next;
    }
    if (columns) cbor_decref(&columns);
    return end;
}

static void take_parcel(Producer *one, const cbor_item_t *header, const unsigned char *body, size_t size) {
    u64 sequence = get_int(header, "sequence"), count = 0, bytes = 0;
    const cbor_item_t *rows = get(header, "sections");
    if (sequence <= one->sequence) return; /* a copy */
    bool sound = sequence == one->sequence + 1;
    for (size_t n = 0; n < length(rows); n++) {
        const cbor_item_t *row = cbor_array_handle(rows)[n];
        sound = sound && at(row, 0) && at(row, 0) <= at(row, 1) && at(row, 1) <= size - bytes;
        if (sound) count += at(row, 0), bytes += at(row, 1);
    }
    bool over = count && (one->arrived + count > one->limit_messages || one->arrived_bytes + bytes > one->limit_bytes);
    if (!sound || bytes != size || over) {
        fprintf(stderr, "%s.%llu: a parcel that cannot be\n", upstream, one->instance);
        begin(one);
        return;
    }
    Parcel *parcel = calloc(1, sizeof *parcel);
    if (!parcel) stop("calloc", strerror(errno));
    *parcel = (Parcel){.producer = one, .session = one->sessions, .left = count + 1, .count = count, .bytes = bytes};
    one->sequence = sequence, one->arrived += count, one->arrived_bytes += bytes, one->end_came = !count;
    if (one->last) one->last->next = parcel;
    else one->first = parcel;
    one->last = parcel;
    Message *messages = NULL, **end = &messages;
    for (size_t n = 0; n < length(rows); n++) {
        const cbor_item_t *row = cbor_array_handle(rows)[n];
        end = unpack(parcel, row, body, end), body += at(row, 1);
    }
    one->changed = true;
    if (messages) take(messages);
    less(parcel, 1); /* the one that kept it here until now */
}

static void announced(Producer *one, const cbor_item_t *frame) {
    const cbor_item_t *its = get(frame, "incarnation");
    if (!has_text(frame, "kind", "announcement") || !its || !cbor_isa_string(its)) return; /* malformed */
    if (one->open && !has_text(frame, "incarnation", one->incarnation)) begin(one);
    bool before = one->stopped;
    one->stopped = has_text(frame, "state", "STOPPED"), one->ended = one->stopped && get_flag(frame, "ended");
    one->changed = one->changed || one->stopped != before;
}

static void answered(Producer *one, const cbor_item_t *frame) {
    const cbor_item_t *session = get(frame, "session");
    bool of_this = one->open && has_bytes(frame, "session", one->session);
    if (has_text(frame, "kind", "welcome") && !one->open && get_int(frame, "number") == one->number) {
        if (!session || !cbor_isa_bytestring(session) || cbor_bytestring_length(session) != SECRET) return;
        if (!has_text(frame, "incarnation", one->incarnation)) one->count = 0; /* its numbers are new */
        free(one->incarnation), one->incarnation = get_text(frame, "incarnation");
        memcpy(one->session, cbor_bytestring_handle(session), SECRET);
        one->open = one->changed = true;
    } else if (has_text(frame, "kind", "refuse")) {
        char *reason = get_text(frame, "reason");
        fprintf(stderr, "%s.%llu refuses: %s\n", upstream, one->instance, reason);
        free(reason);
        if (of_this) begin(one);
    } else if (has_text(frame, "kind", "confirm") && of_this) {
        u64 need = get_int(frame, "need_bytes");
        forget_below(one, get_int(frame, "lowest"));
        if (get_int(frame, "sequence") >= one->sequence && need != one->need) one->need = need, one->changed = true;
    }
}

static void hear(Producer *one) {
    Parts parts;
    for (int event; (event = happened(one->monitor));) {
        one->up = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED, one->greeted = 0;
        begin(one);
    }
    for (int n = 0; n < 2; n++) {
        for (void *socket = n ? one->dealer : one->sub; receive(socket, &parts); discard(&parts)) {
            zmq_msg_t *last = &parts.frame[n ? 0 : 1];
            cbor_item_t *frame = parts.count == (n ? 1 : 2) ? decoded(zmq_msg_data(last), zmq_msg_size(last)) : NULL;
            one->heard = monotonic();
            if (frame && n) answered(one, frame);
            else if (frame) announced(one, frame);
            if (frame) cbor_decref(&frame);
        }
        discard(&parts);
    }
}

static void connect_to(Producer *one, const char *of) { /* `of`: its folder */
    char *feedback_address = text("ipc://%s/%s/feedback.sock", root, of);
    char *control_address = text("ipc://%s/%s/control.sock", root, of);
    one->incarnation = strdup(""), one->heard = monotonic();
    one->dealer = opened(ZMQ_DEALER, 0, 0), one->sub = opened(ZMQ_SUB, 0, 0);
    one->monitor = monitored(one->dealer, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED);
    zmq_setsockopt(one->sub, ZMQ_SUBSCRIBE, "announcement", 12);
    zmq_connect(one->dealer, feedback_address), zmq_connect(one->sub, control_address);
    free(feedback_address), free(control_address);
}

static void look_for_producers(void) {
    char *prefix = text("%s.%s.", pipeline, upstream);
    DIR *folders = opendir(root);
    for (struct dirent *entry; folders && (entry = readdir(folders));) {
        if (strncmp(entry->d_name, prefix, strlen(prefix))) continue;
        u64 number = strtoull(entry->d_name + strlen(prefix), NULL, 10);
        if (!number || number > MOST || producers[number]) continue;
        producers[number] = calloc(1, sizeof(Producer)), producers[number]->instance = number;
        connect_to(producers[number], entry->d_name);
    }
    if (folders) closedir(folders);
    free(prefix);
}

static void read_inbox(void) {
    Parts parts;
    for (; receive(inbox, &parts); discard(&parts)) {
        zmq_msg_t *head = &parts.frame[0], *body = &parts.frame[1];
        cbor_item_t *header = parts.count == 2 ? decoded(zmq_msg_data(head), zmq_msg_size(head)) : NULL;
        if (!get(header, "session")) fprintf(stderr, "malformed: a message of %zu frames in the inbox\n", parts.count);
        for (u64 n = 1; header && n <= MOST; n++) {
            Producer *one = producers[n];
            if (!one || !one->open || !has_bytes(header, "session", one->session)) continue;
            take_parcel(one, header, zmq_msg_data(body), zmq_msg_size(body));
            break;
        }
        if (header) cbor_decref(&header);
    }
    discard(&parts);
}

/* ---- the stage's life */

bool all_ended(bool said) {
    bool one_has = false;
    for (u64 n = 1; n <= MOST; n++) {
        Producer *one = producers[n];
        if (!one) continue;
        bool ended = one->ended || (!said && one->end_came);
        if (!ended && !one->stopped) return false; /* one that left has nothing to come either */
        one_has = one_has || ended;
    }
    return one_has;
}

bool all_acked(void) {
    for (u64 n = 1; n <= MOST; n++) {
        if (producers[n] && producers[n]->first) return false;
    }
    return true;
}

static void put_who(cbor_item_t *map) {
    put_text(map, "pipeline", pipeline), put_text(map, "stage", stage), put_int(map, "instance", instance);
    put_text(map, "incarnation", incarnation), put_text(map, "state", state);
}

static cbor_item_t *snapshot_now(void) { /* for monitors */
    static u64 received_before, done_before;
    cbor_item_t *snapshot = frame_of("snapshot"), *body = cbor_new_definite_map(32), *sessions = cbor_new_definite_array(MOST);
    const char *run = getenv("ZPIPE_RUN");
    double now = monotonic(), seconds = now - shown_at;
    u64 finished = figures(body) + dead;
    put_who(body), put_text(body, "run", run ? run : ""), put_int(body, "pid", getpid()), put_text(body, "version", "example 1");
    put(body, "at", cbor_build_float8(epoch_s + now)); /* nobody sets this clock while the process lives */
    put_int(body, "received", received), put_int(body, "dead", dead), put_int(body, "filtered", 0);
    put_int(body, "returned", 0), put_int(body, "in_process", 0), put_int(body, "queued", 0), put_int(body, "queued_bytes", 0);
    put(body, "rate_in", cbor_build_float8((received - received_before) / seconds));
    put(body, "rate_out", cbor_build_float8((finished - done_before) / seconds));
    for (u64 n = 1; n <= MOST; n++) {
        Producer *one = producers[n];
        if (!one || !one->open) continue;
        cbor_item_t *row = cbor_new_definite_map(7);
        put_text(row, "from", upstream), put_text(row, "outlet", ""), put_int(row, "instance", n), put_int(row, "queued", 0);
        put_text(row, "incarnation", one->incarnation), put_int(row, "received", one->arrived);
        put_int(row, "unacked", one->arrived - one->released), (void)!cbor_array_push(sessions, cbor_move(row));
    }
    put(body, "sessions", sessions), put(snapshot, "body", body);
    shown_at = now, received_before = received, done_before = finished;
    return snapshot;
}

static cbor_item_t *announcement(void) {
    cbor_item_t *said = frame_of("announcement");
    put_who(said), put_flag(said, "ended", !strcmp(state, "STOPPED") && !told_to_leave);
    return said;
}

static void show(void) { zmq_send(control, "snapshot", 8, ZMQ_SNDMORE), send_frame(control, snapshot_now(), 0); }

void announce(void) {
    zmq_send(control, "announcement", 12, ZMQ_SNDMORE), send_frame(control, announcement(), 0);
    show();
}

static void say_the_end(void) { /* to the keeper, whose subscription may have come too late for what was published */
    const char *fault = tell_keeper(snapshot_now());
    if (!fault) fault = tell_keeper(announcement());
    if (fault) fprintf(stderr, "the keeper does not know of the end: %s\n", fault);
}

static void wait_for_something(void) {
    zmq_pollitem_t items[5 * MOST];
    size_t count = 0;
    void *own[] = {inbox, feedback};
    for (int n = 0; n < 2; n++) items[count++] = (zmq_pollitem_t){.socket = own[n], .events = ZMQ_POLLIN};
    for (u64 n = 1; n <= MOST; n++) {
        if (!producers[n]) continue;
        void *its[] = {producers[n]->dealer, producers[n]->sub, producers[n]->monitor};
        for (int i = 0; i < 3; i++) items[count++] = (zmq_pollitem_t){.socket = its[i], .events = ZMQ_POLLIN};
    }
    count += watched(items + count);
    zmq_poll(items, count, TURN_MS);
}

static void turn(void) {
    static double turned, beat, looked;
    double now = monotonic();
    bool stood = turned && now - turned > TIMEOUT_S, beats = now - beat >= HEARTBEAT_S;
    turned = now;
    if (beats) beat = now;
    if (now - looked > HEARTBEAT_S / 10) looked = now, look_for_producers();
    for (u64 n = 1; n <= MOST; n++) {
        if (producers[n]) hear(producers[n]);
    }
    read_inbox();
    Parts parts;
    for (; receive(feedback, &parts); discard(&parts)) {
        zmq_msg_t *last = &parts.frame[1];
        cbor_item_t *frame = parts.count == 2 ? decoded(zmq_msg_data(last), zmq_msg_size(last)) : NULL;
        if (frame) asked(&parts.frame[0], frame), cbor_decref(&frame);
    }
    discard(&parts);
    tick(now, stood, beats);
    for (u64 n = 1; n <= MOST; n++) {
        Producer *one = producers[n];
        if (one && one->open && (stood || now - one->heard > TIMEOUT_S)) begin(one);
        else if (one && one->open && (beats || one->changed)) make_statement(one);
        else if (one && one->up && !one->open && beats) hello(one);
    }
    if (beats) announce();
    else if (now - shown_at >= interval_s) show();
}

static void leave(int signal) {
    (void)signal;
    told_to_leave = 1;
}

static char *told(const char *name) {
    char *value = getenv(name);
    if (!value) stop(name, "is not set");
    return value;
}

int run(void) {
    uint8_t random[SECRET];
    context = zmq_ctx_new();
    root = told("ZPIPE_RUNTIME_DIR"), pipeline = told("ZPIPE_PIPELINE"), stage = told("ZPIPE_STAGE");
    instance = strtoull(told("ZPIPE_INSTANCE"), NULL, 10), upstream = setting("inputs.0.stage");
    char *messages = setting("queue.messages"), *bytes = setting("queue.bytes"), *count = setting("inputs.0.instances");
    if (!upstream || !messages || !bytes) stop("ZPIPE_CONFIG", "has no input, or no queue");
    queue_messages = strtoull(messages, NULL, 10), queue_bytes = strtoull(bytes, NULL, 10);
    if (count && strtoull(count, NULL, 10)) shares = strtoull(count, NULL, 10);
    char *interval = setting("interval_s");
    if (interval) interval_s = strtod(interval, NULL);
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall), shown_at = monotonic();
    epoch_s = wall.tv_sec + wall.tv_nsec / 1e9 - shown_at;
    randomly(secret, SECRET), randomly(random, SECRET);
    for (int n = 0; n < SECRET; n++) sprintf(incarnation + 2 * n, "%02x", random[n]);
    char *folder = text("%s/%s.%s.%llu", root, pipeline, stage, instance);
    if (mkdir(folder, 0700) && errno != EEXIST) stop(folder, strerror(errno));
    char *feedback_address = text("ipc://%s/feedback.sock", folder), *control_address = text("ipc://%s/control.sock", folder);
    inbox_address = text("ipc://%s/inbox-%.8s.sock", folder, incarnation);
    inbox = bound(ZMQ_PULL, ZMQ_RCVHWM, 0, inbox_address);
    feedback = bound(ZMQ_ROUTER, 0, 0, feedback_address), control = bound(ZMQ_PUB, 0, 0, control_address);
    free(messages), free(bytes), free(count), free(interval), free(folder), free(feedback_address), free(control_address);
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = leave}, NULL);
    for (turn(); !told_to_leave && !done; turn()) wait_for_something();
    if (told_to_leave) state = "STOPPED", announce();
    say_the_end();
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL); /* what was said leaves before */
    return 0;
}
