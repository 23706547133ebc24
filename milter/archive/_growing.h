/* What a step of a helper may say, and memory that grows while it works.
 *
 * Promises: what grows is at least doubled, so that time and memory stay linear in what is put into
 * it; where there is no memory, it is left as it was and MemoryError is set.
 * Does not: limit anything.  Sizes are those of what lies in memory already, so none overflows.
 */

#ifndef CARBONSEAL_GROWING_H
#define CARBONSEAL_GROWING_H

#include "../../keys/_extension.h"
#include <stdlib.h>

/* UNUSUAL leaves the matter to the twin in Python; of an ERROR an exception is set. */
typedef enum { ERROR = -1, UNUSUAL = 0, DONE = 1 } Outcome;
#define TRY(step)                              \
    do {                                       \
        Outcome outcome_ = (step);             \
        if (outcome_ != DONE) return outcome_; \
    } while (0)

/* Octets in one piece; zeros are an empty one. */
typedef struct {
    octet *octets;
    size_t size, room;
} Buffer;

/* Afterwards so many octets can be written behind its end; DONE or ERROR. */
static inline Outcome make_room(Buffer *buffer, size_t more) {
    if (buffer->room - buffer->size >= more) return DONE;
    size_t room = 2 * buffer->room + more + 256;
    octet *octets = realloc(buffer->octets, room);
    if (!octets) {
        PyErr_NoMemory();
        return ERROR;
    }
    buffer->octets = octets;
    buffer->room = room;
    return DONE;
}

/* Lengthen it by some octets, which are to be written there; NULL with an exception set. */
static inline octet *lengthen(Buffer *buffer, size_t more) {
    if (make_room(buffer, more) != DONE) return NULL;
    octet *to = buffer->octets + buffer->size;
    buffer->size += more;
    return to;
}

static inline Outcome append(Buffer *buffer, const void *octets, size_t size) {
    TRY(make_room(buffer, size));
    memcpy(buffer->octets + buffer->size, octets, size);
    buffer->size += size;
    return DONE;
}

static inline void release(Buffer *buffer) {
    free(buffer->octets);
    *buffer = (Buffer){0};
}

/* Where elements of `size` octets are that now have more room; NULL with an exception set, and then
   they are where they were.  `*room`: for how many there is room. */
static inline void *grown(void *elements, size_t *room, size_t size) {
    size_t wanted = 2 * *room + 64;
    void *moved = realloc(elements, wanted * size);
    if (moved) *room = wanted;
    else PyErr_NoMemory();
    return moved;
}

#endif
