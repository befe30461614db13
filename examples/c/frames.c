/* Frames in CBOR, and the sockets that they go through. */
#include "stage.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/random.h>
#include <time.h>

void *context, *feedback;

void stop(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(1);
}

char *text(const char *format, ...) {
    char *made;
    va_list values;
    va_start(values, format);
    if (vasprintf(&made, format, values) < 0) stop("vasprintf", strerror(errno));
    va_end(values);
    return made;
}

double monotonic(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec + now.tv_nsec / 1e9;
}

void randomly(uint8_t *bytes, size_t size) {
    if (getrandom(bytes, size, 0) != (ssize_t)size) stop("getrandom", strerror(errno));
}

/* ---- frames*/

const cbor_item_t *get(const cbor_item_t *frame, const char *name) {
    if (!frame || !cbor_isa_map(frame)) return NULL;
    struct cbor_pair *pairs = cbor_map_handle(frame);
    for (size_t n = 0; n < cbor_map_size(frame); n++) {
        if (!cbor_isa_string(pairs[n].key) || cbor_string_length(pairs[n].key) != strlen(name)) continue;
        if (!memcmp(cbor_string_handle(pairs[n].key), name, strlen(name))) return pairs[n].value;
    }
    return NULL;
}

u64 get_int(const cbor_item_t *frame, const char *name) {
    const cbor_item_t *value = get(frame, name);
    return value && cbor_isa_uint(value) ? cbor_get_int(value) : 0;
}

bool get_flag(const cbor_item_t *frame, const char *name) {
    const cbor_item_t *value = get(frame, name);
    return value && cbor_isa_float_ctrl(value) && cbor_is_bool(value) && cbor_get_bool(value);
}

char *get_text(const cbor_item_t *frame, const char *name) {
    const cbor_item_t *value = get(frame, name);
    if (!value || !cbor_isa_string(value) || !cbor_string_is_definite(value)) return strdup("");
    return strndup((char *)cbor_string_handle(value), cbor_string_length(value));
}

bool has_text(const cbor_item_t *frame, const char *name, const char *text) {
    char *value = get_text(frame, name);
    bool same = !strcmp(value, text);
    free(value);
    return same;
}

bool has_bytes(const cbor_item_t *frame, const char *name, const uint8_t *bytes) {
    const cbor_item_t *value = get(frame, name);
    if (!value || !cbor_isa_bytestring(value) || cbor_bytestring_length(value) != SECRET) return false;
    return !memcmp(cbor_bytestring_handle(value), bytes, SECRET);
}

size_t length(const cbor_item_t *array) { return array && cbor_isa_array(array) ? cbor_array_size(array) : 0; }

u64 at(const cbor_item_t *row, size_t index) {
    if (index >= length(row)) return 0;
    const cbor_item_t *value = cbor_array_handle(row)[index];
    return cbor_isa_uint(value) ? cbor_get_int(value) : 0;
}

void put(cbor_item_t *map, const char *name, cbor_item_t *value) {
    if (!cbor_map_add(map, (struct cbor_pair){cbor_move(cbor_build_string(name)), cbor_move(value)})) abort();
}

cbor_item_t *integer(u64 value) { /* in its shortest form */
    if (value <= UINT8_MAX) return cbor_build_uint8(value);
    if (value <= UINT16_MAX) return cbor_build_uint16(value);
    return value <= UINT32_MAX ? cbor_build_uint32(value) : cbor_build_uint64(value);
}

void put_int(cbor_item_t *map, const char *name, u64 value) { put(map, name, integer(value)); }
void put_flag(cbor_item_t *map, const char *name, bool value) { put(map, name, cbor_build_bool(value)); }
void put_text(cbor_item_t *map, const char *name, const char *value) { put(map, name, cbor_build_string(value)); }
void put_bytes(cbor_item_t *map, const char *name, const uint8_t *bytes, size_t size) {
    put(map, name, cbor_build_bytestring(bytes, size));
}

cbor_item_t *frame_of(const char *kind) {
    cbor_item_t *frame = cbor_new_definite_map(32);
    put_text(frame, "kind", kind);
    return frame;
}

int send_frame(void *socket, cbor_item_t *frame, int flags) {
    unsigned char *bytes;
    size_t room, size = cbor_serialize_alloc(frame, &bytes, &room);
    int sent = zmq_send(socket, bytes, size, flags | ZMQ_DONTWAIT);
    free(bytes), cbor_decref(&frame);
    return sent;
}

void answer(zmq_msg_t *route, cbor_item_t *frame) {
    zmq_send(feedback, zmq_msg_data(route), zmq_msg_size(route), ZMQ_SNDMORE | ZMQ_DONTWAIT);
    send_frame(feedback, frame, 0);
}

void refuse(zmq_msg_t *route, const uint8_t *session, const char *reason, u64 number) {
    cbor_item_t *frame = frame_of("refuse");
    put_bytes(frame, "session", session, session ? SECRET : 0);
    put_text(frame, "reason", reason), put_int(frame, "number", number);
    answer(route, frame);
}

bool receive(void *socket, Parts *parts) { /* whether something was there. Frames after the third overwrite one another */
    parts->count = 0;
    for (int n = 0; n < 4; n++) zmq_msg_init(&parts->frame[n]);
    for (bool more = true; more; parts->count++) {
        zmq_msg_t *frame = &parts->frame[parts->count < 3 ? parts->count : 3];
        if (zmq_msg_recv(frame, socket, ZMQ_DONTWAIT) < 0) return false;
        more = zmq_msg_more(frame);
    }
    return true;
}

void discard(Parts *parts) {
    for (int n = 0; n < 4; n++) zmq_msg_close(&parts->frame[n]);
}

cbor_item_t *decoded(const void *bytes, size_t size) { /* NULL: it is no CBOR */
    struct cbor_load_result result;
    return cbor_load(bytes, size, &result);
}

/* ---- sockets */

void *opened(int type, int option, int value) {
    void *socket = zmq_socket(context, type);
    int linger = 0;
    if (!socket) stop("zmq_socket", zmq_strerror(errno));
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    if (option) zmq_setsockopt(socket, option, &value, sizeof value);
    return socket;
}

void *bound(int type, int option, int value, const char *address) {
    void *socket = opened(type, option, value);
    if (zmq_bind(socket, address)) stop(address, zmq_strerror(errno));
    return socket;
}

void *monitored(void *socket, int events) {
    static u64 count;
    char *address = text("inproc://monitor-%llu", ++count);
    zmq_socket_monitor(socket, address, events);
    void *monitor = opened(ZMQ_PAIR, 0, 0);
    zmq_connect(monitor, address), free(address);
    return monitor;
}

int happened(void *monitor) {
    Parts parts;
    uint16_t event = 0;
    if (receive(monitor, &parts)) memcpy(&event, zmq_msg_data(&parts.frame[0]), sizeof event);
    discard(&parts);
    return event;
}
