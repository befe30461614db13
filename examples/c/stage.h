/* What a map and a sink at level 1 of PROTOCOL.md share: frames, and the side towards their producers. */
#ifndef STAGE_H
#define STAGE_H

#include <cbor.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define MOST 64 /* instances of a stage next to this one */
#define SECRET 16 /* bytes of a session's name, and of this incarnation's secret */
#define HEARTBEAT_S 1.0
#define TIMEOUT_S 5.0
#define TURN_MS 100

typedef unsigned long long u64;
typedef struct Producer Producer;
typedef struct Parts { zmq_msg_t frame[4]; size_t count; } Parts; /* a message: its first three frames, and how many it had */

typedef struct Parcel { /* one that came: `left` of its messages are not finished */
    struct Parcel *next;
    Producer *producer;
    u64 session, left, count, bytes;
} Parcel;

typedef struct Message {
    struct Message *next;
    Parcel *parcel;
    u64 came_as;         /* its number on the link that it came by */
    u64 number, attempt; /* on the link that it leaves by */
    cbor_item_t *id, *origin, *payload;
} Message;

/* What map.c and sink.c have. */
extern const char *state; /* as announced */
extern bool done;         /* it may exit */
void take(Message *messages);                                  /* new ones, a list; finish() each once it is durable */
void asked(zmq_msg_t *route, const cbor_item_t *frame);        /* what came on feedback */
void tick(double now, bool stood, bool beats);                 /* ten times a second; stood: this process was stopped */
u64 figures(cbor_item_t *snapshot);                            /* puts `links` and `completed`, and returns that */
size_t watched(zmq_pollitem_t *items);                         /* puts sockets to wake up for */

/* stage.c */
extern char *root, *pipeline, *stage, incarnation[2 * SECRET + 1];
extern u64 dead, received;
int run(void);
void finish(Message *one);  /* it is durable, or all that came of it is acked */
void bury(Message *one, const char *reason); /* in place of finish(): a dead letter, once this returns a durable one */
bool all_ended(bool said);  /* the input: by announcements alone, or also by an end in the data path */
bool all_acked(void);
void announce(void);

/* config.c */
char *setting(const char *path); /* of ZPIPE_CONFIG, such as "outputs.0.to", to be freed; NULL if there is none */

/* frames.c. What a frame has not, or with another type, is 0, false or empty. */
extern void *context, *feedback;
_Noreturn void stop(const char *what, const char *why);
char *text(const char *format, ...) __attribute__((format(printf, 1, 2))); /* to be freed */
double monotonic(void);
void randomly(uint8_t *bytes, size_t size);
cbor_item_t *decoded(const void *bytes, size_t size); /* NULL: it is no CBOR */
const cbor_item_t *get(const cbor_item_t *frame, const char *name);
u64 get_int(const cbor_item_t *frame, const char *name);
bool get_flag(const cbor_item_t *frame, const char *name);
char *get_text(const cbor_item_t *frame, const char *name); /* to be freed */
bool has_text(const cbor_item_t *frame, const char *name, const char *text);
bool has_bytes(const cbor_item_t *frame, const char *name, const uint8_t *bytes);
u64 at(const cbor_item_t *row, size_t index);
size_t length(const cbor_item_t *array);
cbor_item_t *frame_of(const char *kind);
void put(cbor_item_t *map, const char *name, cbor_item_t *value); /* takes the value */
cbor_item_t *integer(u64 value);
void put_int(cbor_item_t *map, const char *name, u64 value);
void put_flag(cbor_item_t *map, const char *name, bool value);
void put_text(cbor_item_t *map, const char *name, const char *value);
void put_bytes(cbor_item_t *map, const char *name, const uint8_t *bytes, size_t size);
int send_frame(void *socket, cbor_item_t *frame, int flags); /* takes the frame; never blocks */
void answer(zmq_msg_t *route, cbor_item_t *frame);
void refuse(zmq_msg_t *route, const uint8_t *session, const char *reason, u64 number);
bool receive(void *socket, Parts *parts); /* whether something was there; never blocks. Then, discard() */
void discard(Parts *parts);
void *opened(int type, int option, int value);
void *bound(int type, int option, int value, const char *address);
void *monitored(void *socket, int events);
int happened(void *monitor); /* the next event; 0: none */

#endif
