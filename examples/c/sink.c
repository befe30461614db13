/* A sink at level 1 of PROTOCOL.md: appends the id of each message to the file `options.path`, a line each, durably. */
#include "stage.h"

#include <fcntl.h>
#include <unistd.h>

const char *state = "RUNNING";
bool done;
static int file;
static u64 completed;

void take(Message *messages) {
    for (Message *one = messages; one; one = one->next) {
        if (dprintf(file, "%.*s\n", (int)cbor_string_length(one->id), (char *)cbor_string_handle(one->id)) < 0) abort();
    }
    if (fsync(file)) abort();
    for (Message *next; messages; messages = next) next = messages->next, completed += 1, finish(messages); /* durable */
}

void asked(zmq_msg_t *route, const cbor_item_t *frame) { /* a last stage has no consumers, and level 1 no requests */
    refuse(route, NULL, "no such request", get_int(frame, "number"));
}

u64 figures(cbor_item_t *snapshot) {
    put_int(snapshot, "completed", completed), put(snapshot, "links", cbor_new_definite_array(0));
    return completed;
}

size_t watched(zmq_pollitem_t *items) { return (void)items, 0; }

void tick(double now, bool stood, bool beats) {
    (void)now, (void)stood, (void)beats;
    if (all_ended(true) && all_acked()) state = "STOPPED", done = true, announce();
}

int main(void) {
    char *path = setting("options.path");
    file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT, 0666) : -1;
    if (file < 0) return perror("options.path"), 1;
    free(path);
    return run();
}
