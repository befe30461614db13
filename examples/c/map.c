/* A map at level 1 of PROTOCOL.md: sends each payload on as `work` makes it, one to one. */
#include "stage.h"

#define PARCEL 256 /* most messages of one */

typedef struct Sent { /* a parcel, or an end without messages, that is not acked */
    struct Sent *next;
    u64 sequence, count;
    Message *messages;
} Sent;

typedef struct Consumer { /* a session with a downstream instance, to which this is the producer */
    zmq_msg_t route;
    char *incarnation;
    uint8_t secret[SECRET], name[SECRET];
    u64 instance, number, sequence, end, sent, sent_bytes, need;
    u64 newest, limit_messages, limit_bytes, received, released; /* as it stated last */
    bool up, leaving, seen_stopped;
    double heard, progress;
    void *push, *monitor;
    Sent *first, *last;
} Consumer;

const char *state = "RUNNING";
bool done;
static char *downstream;
static Consumer *consumers[MOST + 1];
static Message *unsent; /* in order of their numbers */
static u64 made;
static double stopped_at;

static cbor_item_t *work(cbor_item_t *payload) { return payload; } /* takes one, and gives one; NULL: it takes none, and fails */

static void give_back(Message *back) { /* into what is unsent, in order */
    for (Message **to = &unsent, *next; back; back = next) {
        next = back->next;
        while (*to && (*to)->number < back->number) to = &(*to)->next;
        back->next = *to, *to = back;
    }
}

static void give_up(Consumer *one) { /* what is unacked goes out again */
    consumers[one->instance] = NULL;
    zmq_socket_monitor(one->push, NULL, 0), zmq_close(one->monitor), zmq_close(one->push);
    for (Sent *sent; (sent = one->first); free(sent)) {
        one->first = sent->next;
        for (Message *message = sent->messages; message; message = message->next) message->attempt += 1;
        give_back(sent->messages);
    }
    zmq_msg_close(&one->route), free(one->incarnation), free(one);
}

static unsigned char *encode(u64 count, size_t *size) { /* a section of the first that are unsent */
    cbor_item_t *columns = cbor_new_definite_array(4), *column[3];
    for (int n = 0; n < 3; n++) column[n] = cbor_new_definite_array(count);
    Message *one = unsent;
    for (u64 n = 0; n < count; n++, one = one->next) {
        cbor_item_t *items[] = {one->id, one->origin, one->payload};
        for (int i = 0; i < 3; i++) (void)!cbor_array_push(column[i], items[i]);
    }
    for (int n = 0; n < 3; n++) (void)!cbor_array_push(columns, cbor_move(column[n]));
    (void)!cbor_array_push(columns, cbor_move(cbor_new_null()));
    unsigned char *bytes;
    size_t room;
    *size = cbor_serialize_alloc(columns, &bytes, &room);
    cbor_decref(&columns);
    return bytes;
}

static void confirm(Consumer *one) {
    u64 lowest = unsent ? unsent->number : made + 1;
    for (u64 n = 1; n <= MOST; n++) {
        for (Sent *sent = consumers[n] ? consumers[n]->first : NULL; sent; sent = sent->next) {
            if (sent->messages && sent->messages->number < lowest) lowest = sent->messages->number;
        }
    }
    cbor_item_t *frame = frame_of("confirm");
    put_bytes(frame, "session", one->name, SECRET), put_int(frame, "number", one->newest);
    put_int(frame, "sequence", one->sequence), put_int(frame, "sent_messages", one->sent);
    put_int(frame, "sent_bytes", one->sent_bytes), put_int(frame, "lowest", lowest), put_int(frame, "need_bytes", one->need);
    answer(&one->route, frame);
}

static bool post(Consumer *one, u64 count, const unsigned char *body, size_t size) { /* of nothing: the end of the stream */
    cbor_item_t *header = frame_of("parcel");
    put_bytes(header, "session", one->name, SECRET), put_int(header, "sequence", one->sequence + 1);
    if (count) {
        u64 values[] = {count, size, unsent->number, unsent->attempt, 0};
        cbor_item_t *rows = cbor_new_definite_array(1), *row = cbor_new_definite_array(5);
        for (int n = 0; n < 5; n++) (void)!cbor_array_push(row, cbor_move(integer(values[n])));
        (void)!cbor_array_push(rows, cbor_move(row));
        put(header, "sections", rows);
    }
    if (send_frame(one->push, header, ZMQ_SNDMORE) < 0 || zmq_send(one->push, body, size, ZMQ_DONTWAIT) < 0) {
        give_up(one); /* a send that would block: the session is broken */
        return false;
    }
    if (one->received == one->sequence) one->progress = monotonic();
    Sent *sent = calloc(1, sizeof *sent);
    *sent = (Sent){.sequence = ++one->sequence, .count = count, .messages = count ? unsent : NULL};
    if (count) {
        Message *last = unsent;
        while (--count) last = last->next;
        unsent = last->next, last->next = NULL;
    }
    one->sent += sent->count, one->sent_bytes += size;
    if (one->last) one->last->next = sent;
    else one->first = sent;
    one->last = sent;
    return true;
}

static void fill(Consumer *one) {
    u64 need = 0;
    while (one->up && one->newest && !one->leaving && unsent && !need) {
        u64 room = one->limit_messages > one->sent ? one->limit_messages - one->sent : 0, count = 0;
        for (Message *next = unsent; next && count < room && count < PARCEL; next = next->next, count++) {
            if (next->number != unsent->number + count || next->attempt != unsent->attempt) break;
        }
        size_t size;
        unsigned char *body = encode(count ? count : 1, &size);
        while (count && one->sent_bytes + size > one->limit_bytes) {
            if (!(count /= 2)) break; /* `size` stays that of one message */
            free(body), body = encode(count, &size);
        }
        if (!count) need = room || one->sent == one->released ? size : 0;
        bool sent = count && post(one, count, body, size), lost = count && !sent;
        free(body);
        if (lost) return;
        if (!sent) break;
    }
    bool turned = need && !one->need;
    one->need = need;
    if (turned) confirm(one);
    if (one->up && one->newest && strcmp(state, "RUNNING") && !unsent && one->end != one->sequence) {
        if (post(one, 0, (const unsigned char *)"", 0)) one->end = one->sequence;
    }
}

static void fill_all(void) {
    for (u64 n = 1; n <= MOST; n++) {
        if (consumers[n]) fill(consumers[n]);
    }
}

static bool acks(const cbor_item_t *frame, u64 sequence) {
    const cbor_item_t *ranges = get(frame, "ranges");
    bool found = sequence <= get_int(frame, "floor");
    for (size_t n = 0; n < length(ranges) && !found; n++) {
        const cbor_item_t *range = cbor_array_handle(ranges)[n];
        found = at(range, 0) <= sequence && sequence < at(range, 1);
    }
    return found;
}

static void stated(Consumer *one, const cbor_item_t *frame) {
    u64 number = get_int(frame, "number"), got = get_int(frame, "received");
    one->heard = monotonic();
    if (number > one->newest) {
        const cbor_item_t *ranges = get(frame, "ranges");
        bool true_ = got <= one->sequence && get_int(frame, "floor") <= got && get_int(frame, "released") <= one->sent;
        for (size_t n = 0; n < length(ranges); n++) true_ = true_ && at(cbor_array_handle(ranges)[n], 1) <= got + 1;
        bool back = length(get(frame, "returned")); /* closing is always safe: all of it goes out again */
        if (!true_ || back) {
            const char *why = back ? "the session is closed with what was handed back" : "it acks what was not sent";
            refuse(&one->route, one->name, why, number), give_up(one);
            return;
        }
        if (got > one->received) one->progress = one->heard;
        one->newest = number, one->received = got, one->released = get_int(frame, "released");
        one->limit_messages = get_int(frame, "limit_messages"), one->limit_bytes = get_int(frame, "limit_bytes");
        one->leaving = get_flag(frame, "leaving"), one->seen_stopped = get_flag(frame, "seen_stopped");
        Sent *last = NULL;
        for (Sent **sent = &one->first, *acked; *sent;) {
            if (!acks(frame, (*sent)->sequence)) {
                last = *sent, sent = &last->next;
                continue;
            }
            acked = *sent, *sent = acked->next;
            for (Message *next; acked->messages; acked->messages = next) {
                next = acked->messages->next, finish(acked->messages);
            }
            free(acked);
        }
        one->last = last;
        fill(one);
        if (consumers[one->instance] != one) return;
    }
    if (get_flag(frame, "reply")) confirm(one);
}

static void hello(zmq_msg_t *route, const cbor_item_t *frame) {
    char *address = get_text(frame, "inbox");
    u64 instance = get_int(frame, "instance"), number = get_int(frame, "number"), queue = get_int(frame, "queue_messages");
    const cbor_item_t *secret = get(frame, "secret");
    char *folder = text("ipc://%s/%s.%s.%llu/", root, pipeline, downstream, instance);
    size_t size = strlen(folder);
    const char *wrong = NULL;
    if (get_int(frame, "version") != 2) wrong = "this is version 2 of the protocol";
    else if (!has_text(frame, "pipeline", pipeline)) wrong = "another pipeline";
    else if (!has_text(frame, "upstream", stage)) wrong = "another stage is asked for";
    else if (!has_text(frame, "stage", downstream) || !has_text(frame, "outlet", "")) wrong = "there is no such link";
    else if (instance < 1 || instance > MOST) wrong = "there is no such instance";
    else if (strncmp(address, folder, size) || strchr(address + size, '/')) wrong = "the inbox is not in the folder of its instance";
    else if (!secret || !cbor_isa_bytestring(secret) || cbor_bytestring_length(secret) != SECRET) wrong = "a secret has 16 bytes";
    Consumer *one = wrong ? NULL : consumers[instance];
    if (one && has_text(frame, "incarnation", one->incarnation) && number < one->number) goto finally; /* a late copy */
    if (one && !has_bytes(frame, "secret", one->secret)) wrong = "in session by another connection";
    if (wrong) {
        refuse(route, NULL, wrong, number);
        goto finally;
    }
    if (one && number > one->number) give_up(one), one = NULL;
    if (!one) {
        int immediate = 1, never = -1;
        one = consumers[instance] = calloc(1, sizeof *one);
        one->instance = instance, one->number = number, one->incarnation = get_text(frame, "incarnation");
        one->heard = one->progress = monotonic();
        memcpy(one->secret, cbor_bytestring_handle(secret), SECRET), randomly(one->name, SECRET);
        zmq_msg_init(&one->route), zmq_msg_copy(&one->route, route);
        one->push = opened(ZMQ_PUSH, ZMQ_SNDHWM, queue < 1000000000 ? (int)queue + 64 : 1000000064);
        zmq_setsockopt(one->push, ZMQ_IMMEDIATE, &immediate, sizeof immediate);
        zmq_setsockopt(one->push, ZMQ_RECONNECT_IVL, &never, sizeof never);
        one->monitor = monitored(one->push, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_CLOSED);
        zmq_connect(one->push, address);
    }
    cbor_item_t *welcome = frame_of("welcome");
    put_int(welcome, "version", 2), put_bytes(welcome, "session", one->name, SECRET);
    put_text(welcome, "incarnation", incarnation), put_int(welcome, "number", number), answer(route, welcome);
finally:
    free(address), free(folder);
}

void asked(zmq_msg_t *route, const cbor_item_t *frame) {
    Consumer *one = NULL;
    for (u64 n = 1; n <= MOST && !one; n++) {
        Consumer *its = consumers[n];
        if (!its || !has_bytes(frame, "session", its->name) || zmq_msg_size(route) != zmq_msg_size(&its->route)) continue;
        if (!memcmp(zmq_msg_data(route), zmq_msg_data(&its->route), zmq_msg_size(route))) one = its;
    }
    const cbor_item_t *session = get(frame, "session");
    bool named = session && cbor_isa_bytestring(session) && cbor_bytestring_length(session) == SECRET;
    u64 number = get_int(frame, "number");
    if (has_text(frame, "kind", "hello")) hello(route, frame);
    else if (has_text(frame, "kind", "statement") && one) stated(one, frame);
    else if (has_text(frame, "kind", "refuse")) one ? give_up(one) : (void)0;
    else if (named) refuse(route, cbor_bytestring_handle(session), "no such session", number);
    else refuse(route, NULL, "no such request", number);
}

void take(Message *messages) {
    Message **to = &unsent;
    while (*to) to = &(*to)->next;
    for (Message *next; messages; messages = next) {
        cbor_item_t *payload = work(messages->payload);
        next = messages->next, messages->next = NULL;
        if (!payload) bury(messages, "work failed");
        else messages->payload = payload, messages->number = ++made, *to = messages, to = &messages->next;
    }
    fill_all();
}

u64 figures(cbor_item_t *snapshot) {
    u64 waiting = 0, in_flight = 0;
    cbor_item_t *links = cbor_new_definite_array(1), *link = cbor_new_definite_map(7), *sessions = cbor_new_definite_array(MOST);
    for (Message *one = unsent; one; one = one->next) waiting += 1;
    for (u64 n = 1; n <= MOST; n++) {
        Consumer *one = consumers[n];
        if (!one) continue;
        u64 parcels = 0, held = 0;
        for (Sent *sent = one->first; sent; sent = sent->next) parcels += 1, held += sent->count;
        cbor_item_t *row = cbor_new_definite_map(8);
        put_int(row, "instance", n), put_text(row, "incarnation", one->incarnation), put_int(row, "sent", one->sent);
        put_int(row, "credit", one->limit_messages > one->sent ? one->limit_messages - one->sent : 0), put_int(row, "rate", 0);
        put_int(row, "under_way", one->sent - one->released), put_int(row, "in_flight", held);
        put_int(row, "unacked_parcels", parcels), (void)!cbor_array_push(sessions, cbor_move(row));
        in_flight += held;
    }
    put_text(link, "outlet", ""), put_text(link, "to", downstream), put_int(link, "produced", made), put(link, "consumers", sessions);
    put_int(link, "acked", made - waiting - in_flight), put_int(link, "in_flight", in_flight), put_int(link, "unsent", waiting);
    (void)!cbor_array_push(links, cbor_move(link));
    put(snapshot, "links", links), put_int(snapshot, "completed", made);
    return made;
}

size_t watched(zmq_pollitem_t *items) {
    size_t count = 0;
    for (u64 n = 1; n <= MOST; n++) {
        if (consumers[n]) items[count++] = (zmq_pollitem_t){.socket = consumers[n]->monitor, .events = ZMQ_POLLIN};
    }
    return count;
}

static void move(const char *to) { state = to, announce(); }

void tick(double now, bool stood, bool beats) {
    bool ends = false, seen = true;
    for (u64 n = 1; n <= MOST; n++) {
        Consumer *one = consumers[n];
        if (!one) continue;
        if (stood) one->heard = one->progress = now;
        bool lost = false, silent = now - one->heard > TIMEOUT_S;
        bool stuck = one->received < one->sequence && now - one->progress > TIMEOUT_S;
        for (int event; (event = happened(one->monitor));) one->up = event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED, lost = !one->up;
        if (silent || stuck) refuse(&one->route, one->name, "no progress", 0);
        if (lost || silent || stuck) give_up(one);
        else if (beats) confirm(one);
    }
    if (!strcmp(state, "RUNNING") && all_ended(false) && !unsent) move("FLUSHED");
    fill_all();
    bool acked = !unsent;
    for (u64 n = 1; n <= MOST; n++) {
        Consumer *one = consumers[n];
        if (!one) continue;
        ends = true, acked = acked && !one->first && one->end == one->sequence, seen = seen && one->seen_stopped;
    }
    if (!strcmp(state, "FLUSHED") && all_ended(true) && ends && acked) stopped_at = now, move("STOPPED");
    done = !strcmp(state, "STOPPED") && (seen || now - stopped_at > TIMEOUT_S);
}

int main(void) {
    downstream = setting("outputs.0.to");
    if (!downstream) return fputs("ZPIPE_CONFIG: a map has an output\n", stderr), 1;
    return run();
}
